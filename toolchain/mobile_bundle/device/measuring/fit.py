"""Predicts from the manifest whether a bundle fits a device, before anything is sent. Reasons come with their
arithmetic."""

from __future__ import annotations

from typing import Any

from mobile_bundle.device.transport.device_info import DeviceInfo
from mobile_bundle.native.engine import estimate_memory
from mobile_bundle.report.text import megabytes

_SPARE_DISK = 32 << 20
"""Bytes that stay free: a full /data makes Android itself fail, and an interrupted push needs one part more."""


def predicted_at(manifest: dict[str, Any], context: int) -> dict[str, int]:
    """The manifest's prediction, for another context: only the KV cache grows with it."""
    predicted = manifest["predicted"]
    more = (context - predicted["context"]) * predicted["kv_bytes_per_token"]
    return {
        "file_bytes": predicted["file_bytes"],
        "anon_bytes": predicted["anon_bytes"] + more,
        "peak_bytes": predicted["peak_bytes"] + more,
        "context": context,
    }


def manifest_with(manifest: dict[str, Any], config: bytes, kv: str) -> dict[str, Any]:
    """The manifest with the prediction of another type of KV cache. config: the 256 bytes of mb_model_config."""
    predicted = manifest["predicted"]
    own, other = (estimate_memory(config, predicted["context"], threads=2, kv_type=name) for name in ("int8", kv))
    more = other.anon_bytes - own.anon_bytes
    changed = {
        "anon_bytes": predicted["anon_bytes"] + more,
        "peak_bytes": predicted["peak_bytes"] + more,
        "kv_bytes_per_token": other.kv_bytes_per_token,
    }
    return {**manifest, "predicted": {**predicted, **changed}}


def disk_bytes(manifest: dict[str, Any], abi: str) -> int:
    """Bytes of the bundle that a device stores: everything except the runners of other ABIs, plus the weights cache
    that it makes."""
    files = manifest["files"]
    own = sum(file["bytes"] for name, file in files.items() if not name.startswith("bin/") or f"/{abi}/" in name)
    cache = manifest["predicted"]["file_bytes"] - files["weights.ptd"]["bytes"] - files["tokenizer.bin"]["bytes"]
    return int(own + max(cache, 0))


def reasons_against(manifest: dict[str, Any], info: DeviceInfo, context: int, there_bytes: int) -> list[str]:
    """Why the bundle cannot run on the device; empty if it can. there_bytes: of the bundle, already on the device's
    disk."""
    reasons = []
    carried = sorted({name.split("/")[1] for name in manifest["files"] if name.startswith("bin/")})
    abi = choose_abi(manifest, info)
    if abi is None:
        runs = ", ".join(info.abis) or f"a {info.machine} processor"
        reasons.append(f"no runner for this device: it runs {runs}, the bundle has {', '.join(carried) or 'none'}")
    trained = manifest["model"]["context"]
    if context > trained:
        reasons.append(f"a context of {context} tokens was requested, but the model was trained for {trained}")
    predicted = predicted_at(manifest, context)
    peak, anon = predicted["peak_bytes"], predicted["anon_bytes"]
    parts = (
        f"{megabytes(predicted['file_bytes'])} of files + {megabytes(anon)} anonymous + "
        f"{megabytes(max(peak - anon - predicted['file_bytes'], 0))} program = {megabytes(peak)} at {context} tokens"
    )
    if peak > info.memory_bytes:
        reasons.append(
            f"too large for the device's memory: {parts}; the device has {megabytes(info.memory_bytes)} in total"
        )
    elif peak > info.available_bytes + info.swap_bytes:
        reasons.append(
            f"too large for the free memory: {parts}; the device has {megabytes(info.available_bytes)} available and "
            f"{megabytes(info.swap_bytes)} of swap; close other apps"
        )
    needed = disk_bytes(manifest, abi or "") - there_bytes
    if needed > 0 and needed + _SPARE_DISK > info.free_bytes:
        reasons.append(
            f"too large for the device's storage: it needs {megabytes(needed)}, plus {megabytes(_SPARE_DISK)} spare; "
            f"{megabytes(info.free_bytes)} are free in the work folder"
        )
    return reasons


def choose_abi(manifest: dict[str, Any], info: DeviceInfo) -> str | None:
    """The device's best ABI that the bundle has a runner for."""
    return next((abi for abi in info.abis if f"bin/{abi}/mobile-run" in manifest["files"]), None)
