"""Measures bundles of one model against its checkpoint: sizes, exact errors, perplexity, divergence."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.container.index import ContainerError
from mobile_bundle.container.manifest import read_manifest, sha256, verify_files
from mobile_bundle.container.weights import WeightsReader
from mobile_bundle.corpus.text import read_text
from mobile_bundle.corpus.windows import token_windows
from mobile_bundle.errors import ArgumentError, InputError, printable
from mobile_bundle.evaluate.divergence import Divergence, compare_all
from mobile_bundle.evaluate.perplexity import measure
from mobile_bundle.models import Model, open_model
from mobile_bundle.models.gguf import GgufCheckpoint
from mobile_bundle.native.engine import Model as Engine
from mobile_bundle.native.tokenizer import Tokenizer
from mobile_bundle.pipeline.uncompressed import open_for_evaluation
from mobile_bundle.report.bundle import bundle_report, identity
from mobile_bundle.report.errors import TensorError, tensor_errors
from mobile_bundle.report.pareto import Point, pareto_front, read_points
from mobile_bundle.report.schema import BundleReport, Closeness, Original, Protocol, Report
from mobile_bundle.version import __version__

Bar = Callable[[int, int, str], None]
NewBar = Callable[[str, str], Bar]
"""(title, unit) -> a progress bar, called with (done, total, what)."""

_TOGETHER = 4
"""Bundles that are measured side by side: the original reads the text once for so many of them."""

Windows = NDArray[np.int32]


@dataclass(frozen=True)
class Asked:
    """What a report is made of. windows 0: the whole text; threads 0: the engine's default."""

    bundles: Sequence[Path]
    against: Path
    text: Path
    context: int
    windows: int
    kv: str
    threads: int
    points: Path | None
    command: str


def collect_report(
    asked: Asked, new_bar: NewBar, earlier: Report | None = None, save: Callable[[Report], None] = lambda report: None
) -> Report:
    """Measures the bundles. earlier: a report whose measurements are reused for the same bytes, text and protocol.
    save: called with the report so far before each further bundle is measured.

    Everything cheap is checked before anything slow begins. UserError names what is wrong."""
    names = bundle_names(asked.bundles)
    text = read_text(asked.text)
    with open_model(asked.against) as model, ExitStack() as stack:
        manifests = [_checked_manifest(bundle, model) for bundle in asked.bundles]
        windows = _common_windows(asked, manifests, text)
        others = read_points(asked.points, asked.context, len(windows)) if asked.points else None
        protocol = _protocol(asked, text, windows)
        fingerprint = _fingerprint(model)
        old = earlier if earlier is not None and _comparable(earlier, protocol, fingerprint) else None

        @functools.cache
        def uncompressed() -> Engine:
            return stack.enter_context(_opened(asked, asked.against, windows, new_bar, model.spec.name))

        if old is not None:
            original, kernels = old.original, old.protocol.kernels
        else:
            bar = _counted(new_bar, model.spec.name)
            found = measure(uncompressed(), windows, asked.kv, asked.threads, bar)
            original, kernels = _original(model, fingerprint, found.perplexity), uncompressed().kernels
        protocol = replace(protocol, kernels=kernels)
        wanted = {tensor.name for tensor in model.tensors}
        whole = [bundle for bundle in old.bundles if wanted <= bundle.errors().keys()] if old is not None else []
        known = {bundle.sha256: bundle for bundle in whole}
        done: list[BundleReport] = []

        def report() -> Report:
            return Report(__version__, protocol, original, _with_front(done), others)

        # what is known comes first, so that an interrupted report never knows less than the one it continues
        todo = list(zip(asked.bundles, names, manifests, strict=True))
        todo.sort(key=lambda item: identity(item[2]) not in known)
        new = []
        for path, name, manifest in todo:
            same = known.get(identity(manifest))
            if same is None:
                new.append((path, name, manifest))
            else:
                done.append(bundle_report(path, name, manifest, same.errors(), same.perplexity, same.closeness))
        for first in range(0, len(new), _TOGETHER):
            save(report())
            some = new[first : first + _TOGETHER]
            errors = [_errors(model, path, new_bar(f"{name}: errors", "w")) for path, name, _ in some]
            with ExitStack() as opened:
                own = [opened.enter_context(_opened(asked, path, windows, new_bar, name)) for path, name, _ in some]
                bar = _counted(new_bar, ", ".join(name for _, name, _ in some))
                figures = compare_all(own, uncompressed(), windows, asked.kv, asked.threads, bar)
            for (path, name, manifest), error, each in zip(some, errors, figures, strict=True):
                done.append(bundle_report(path, name, manifest, error, each.perplexity, _closeness(each)))
        return report()


def bundle_names(bundles: Sequence[Path]) -> list[str]:
    """The name of each bundle: its folder without ".mbundle", or its whole path where two would have the same name.
    UserError if a bundle is given twice."""
    real = [bundle.resolve() for bundle in bundles]
    for number, path in enumerate(real):
        if path in real[:number]:
            raise ArgumentError(f"{bundles[number]} is given twice")
    short = [path.name.removesuffix(".mbundle") for path in real]
    chosen = [str(bundle) if short.count(name) > 1 else name for bundle, name in zip(bundles, short, strict=True)]
    return [printable(name) for name in chosen]


def _protocol(asked: Asked, text: str, windows: Windows) -> Protocol:
    """kernels: not known yet."""
    return Protocol(
        text=printable(asked.text.name),
        text_sha256=hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
        ids_sha256=hashlib.sha256(windows.astype("<i4").tobytes()).hexdigest(),
        context=asked.context,
        windows=len(windows),
        tokens=len(windows) * (asked.context - 1),
        kv=asked.kv,
        command=asked.command,
        machine=_machine(),
        kernels="",
    )


def _checked_manifest(bundle: Path, model: Model) -> dict[str, Any]:
    """The manifest of a whole bundle of that model: an hour of measuring should not end in a damaged file."""
    manifest = read_manifest(bundle)
    theirs = {tensor["name"]: (tensor["rows"], tensor["columns"]) for tensor in manifest["tensors"]}
    for tensor in model.tensors:
        if theirs.get(tensor.name) != (tensor.rows, tensor.columns):
            raise InputError(
                f"{bundle} is not a bundle of {model.checkpoint.path}: {tensor.name} is missing or has another shape",
                "give the checkpoint it was built from with `against`",
            )
    verify_files(bundle, manifest)
    return manifest


def _common_windows(asked: Asked, manifests: Sequence[dict[str, Any]], text: str) -> Windows:
    """Token windows int32 (windows, context), which must be the same by every bundle's tokenizer."""
    common: Windows | None = None
    for bundle, manifest in zip(asked.bundles, manifests, strict=True):
        tokenizer = Tokenizer(bundle / "tokenizer.bin")
        try:
            windows = token_windows(tokenizer, manifest["model"]["bos"], text, asked.context, asked.windows)
        finally:
            tokenizer.close()
        if common is not None and not np.array_equal(common, windows):
            raise InputError(
                f"{bundle} and {asked.bundles[0]} tokenise the text differently: their perplexities cannot be compared",
                "make a report for each",
            )
        common = windows
    assert common is not None
    return common


@contextmanager
def _opened(asked: Asked, subject: Path, windows: Windows, new_bar: NewBar, name: str) -> Iterator[Engine]:
    """UserError if the subject's own tokenizer gives other tokens."""
    with open_for_evaluation(subject, new_bar(f"{name}: coding weights", "w")) as (model, tokenizer, bos):
        own = token_windows(tokenizer, bos, read_text(asked.text), asked.context, asked.windows)
        if not np.array_equal(own, windows):
            raise InputError(
                f"{subject} tokenises the text differently from {asked.bundles[0]}: the bundle was built from "
                "another tokenizer",
                "give the checkpoint it was built from with `against`",
            )
        yield model


def _counted(new_bar: NewBar, name: str) -> Callable[[int, int], None]:
    bar = new_bar(f"{name}: perplexity", "window")
    return lambda done, total: bar(done, total, "")


def _closeness(found: Divergence) -> Closeness:
    return Closeness(found.kl, found.kl_error, found.kl_99, found.agreement, found.agreement_error)


def _errors(model: Model, bundle: Path, bar: Bar) -> dict[str, TensorError]:
    try:
        with WeightsReader(bundle / "weights.ptd") as weights:
            return tensor_errors(model, weights, bar)
    except ContainerError as error:
        raise InputError(f"{bundle / 'weights.ptd'}: {error}", "build the bundle again") from error


def _with_front(bundles: Sequence[BundleReport]) -> list[BundleReport]:
    """Smallest first, with those on the Pareto front marked."""
    ordered = sorted(bundles, key=lambda bundle: (bundle.model_bytes, bundle.name))
    measured = [
        (index, Point(bundle.name, bundle.model_bytes, bundle.perplexity))
        for index, bundle in enumerate(ordered)
        if bundle.perplexity is not None
    ]
    front = {measured[index][0] for index in pareto_front([point for _, point in measured])}
    return [replace(bundle, pareto=index in front) for index, bundle in enumerate(ordered)]


def _fingerprint(model: Model) -> str:
    """Of everything in the checkpoint that its perplexity depends on."""
    digest = hashlib.sha256()
    checkpoint = model.checkpoint
    beside = [] if isinstance(checkpoint, GgufCheckpoint) else ["config.json", "tokenizer.json"]
    for path in sorted([*checkpoint.files, *(checkpoint.path / name for name in beside)]):
        digest.update(f"{path.name}\0{sha256(path)}\n".encode())
    return digest.hexdigest()


def _original(model: Model, fingerprint: str, perplexity: float | None) -> Original:
    return Original(
        name=model.spec.name,
        architecture=model.spec.architecture,
        parameters=model.parameters,
        layers=model.spec.layers,
        bytes=sum(path.stat().st_size for path in model.checkpoint.files),
        sha256=fingerprint,
        perplexity=perplexity,
    )


def _comparable(earlier: Report, protocol: Protocol, fingerprint: str) -> bool:
    """Whether figures of the earlier report hold here: the same model, tokens, KV cache and program."""
    old = earlier.protocol
    return (
        earlier.tool_version == __version__
        and earlier.original.sha256 == fingerprint
        and (old.ids_sha256, old.context, old.windows, old.kv)
        == (protocol.ids_sha256, protocol.context, protocol.windows, protocol.kv)
    )


def _machine() -> str:
    """The processor's name and the number of cores this process may use."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{names[0] if names else platform.machine()}, {cores} cores, {platform.system()}"
