"""Building with several workers, and builds that are killed and go on: threads, processes, a Dask cluster."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from mobile_bundle.codecs import Blob, BlobHeader, Format, Stats, codec_by_name
from mobile_bundle.container import WeightsReader
from mobile_bundle.errors import UserError
from mobile_bundle.models import open_model
from mobile_bundle.pipeline.executor import ProcessWorkers
from mobile_bundle.pipeline.parts import finished_parts, load_stats, parts_directory, save_stats, stats_digest
from mobile_bundle.pipeline.pool import PartPool
from mobile_bundle.pipeline.weights import build_weights, write_weights
from mobile_bundle.planning.assignment import assign_codecs
from mobile_bundle.planning.recipe import resolve_recipe
from support.paths import EXAMPLE

RECIPE = "affine-3bit"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """sha256 of weights.ptd as one thread builds it."""
    out = tmp_path_factory.mktemp("undisturbed") / "w"
    build_weights(EXAMPLE, RECIPE, out, jobs=1)
    assert not parts_directory(out).exists()
    return digest(out)


def mtimes(parts: Path) -> dict[str, int]:
    """When each finished part was written."""
    return {name: (parts / f"{name}.part").stat().st_mtime_ns for name in finished_parts(parts)}


@pytest.mark.parametrize("jobs", [None, 2])
def test_bytes_do_not_depend_on_the_workers(tmp_path: Path, undisturbed: str, jobs: int | None) -> None:
    records = build_weights(EXAMPLE, RECIPE, tmp_path / "w", jobs=jobs)
    assert digest(tmp_path / "w") == undisturbed
    assert [path.name for path in tmp_path.iterdir()] == ["w"]
    with open_model(EXAMPLE) as model:
        assert [record.name for record in records] == [tensor.name for tensor in model.tensors]


def test_workers_have_one_blas_thread_and_leave_ours_alone() -> None:
    before = dict(os.environ)
    workers = ProcessWorkers(1)
    try:
        assert workers.executor.submit(os.getenv, "OPENBLAS_NUM_THREADS").result(60) == "1"
        assert workers.executor.submit(os.getenv, "OMP_NUM_THREADS").result(60) == "1"
    finally:
        workers.close()
    assert dict(os.environ) == before


CUT_SHORT = """
import multiprocessing, os, signal, sys
from mobile_bundle.pipeline.weights import build_weights
def progress(done, total, name):
    global left
    left -= 1
    if left == 0:
        print(*(process.pid for process in multiprocessing.active_children()), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
if __name__ == "__main__":
    left = int(sys.argv[4])
    build_weights(sys.argv[1], sys.argv[2], sys.argv[3], progress, jobs=int(sys.argv[5]))
"""


@pytest.mark.serial
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_killed_build_goes_on(tmp_path: Path, undisturbed: str, jobs: int) -> None:
    out, parts, script = tmp_path / "w", tmp_path / "w.parts", tmp_path / "cut_short.py"
    script.write_text(CUT_SHORT)
    command = [sys.executable, script, EXAMPLE, RECIPE, out, "20", str(jobs)]
    killed = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    orphans = [int(pid) for pid in killed.stdout.split()]
    assert len(orphans) == (0 if jobs == 1 else 2)
    wait_until_gone(orphans)
    assert not out.exists()
    kept = mtimes(parts)
    assert 20 <= len(kept) < 57
    unfinished = parts / "norm.weight.part.12345678.tmp"
    unfinished.write_bytes(b"left by the kill")
    seen: list[dict[str, int]] = []
    build_weights(EXAMPLE, RECIPE, out, lambda done, total, name: seen.append(mtimes(parts)), jobs=1)
    assert {name: seen[-1][name] for name in kept} == kept
    assert len(seen[-1]) == len(seen) == 57
    assert digest(out) == undisturbed
    assert not parts.exists()


def wait_until_gone(pids: list[int]) -> None:
    end = time.monotonic() + 30
    while alive := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < end, f"workers {alive} outlive their parent"
        time.sleep(0.05)


@pytest.mark.serial
def test_a_killed_worker_is_an_error_and_no_loss(tmp_path: Path, undisturbed: str) -> None:
    out, parts = tmp_path / "w", tmp_path / "w.parts"

    def kill(done: int, total: int, name: str) -> None:
        for process in multiprocessing.active_children():
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)

    with pytest.raises(UserError, match="a worker process was killed, perhaps because it ran out of memory"):
        build_weights(EXAMPLE, RECIPE, out, kill, jobs=2)
    assert not multiprocessing.active_children()
    kept = mtimes(parts)
    assert 0 < len(kept) < 57
    build_weights(EXAMPLE, RECIPE, out, jobs=1)
    assert digest(out) == undisturbed


def test_what_changed_is_coded_again(tmp_path: Path) -> None:
    """Another codec, another configuration, a damaged part; test_resume.py has what else counts."""
    checkpoint = tmp_path / "model"
    shutil.copytree(EXAMPLE, checkpoint)
    parts, out = tmp_path / "parts", tmp_path / "w"

    def build(recipe: str, changed: set[str] | None = None) -> int:
        """Builds and leaves the parts; how many were kept."""
        with open_model(checkpoint) as model:
            assignment = assign_codecs(model.tensors, model.spec, resolve_recipe(recipe, model.spec, model.tensors))
            for name in changed or ():
                assignment[name] = codec_by_name("affine-8bit")
            with PartPool(model, parts, jobs=1) as pool:
                write_weights(pool, model.spec, assignment, out)
                return pool.kept

    assert build("affine-4bit") == 0
    first = digest(out)
    assert build("affine-4bit") == 57
    assert digest(out) == first
    assert build("affine-4bit", {"layers.0.mlp.up.weight", "layers.3.mlp.up.weight"}) == 55
    assert build("affine-4bit") == 55
    assert digest(out) == first
    damaged = parts / "layers.2.mlp.down.weight.part"
    data = bytearray(damaged.read_bytes())
    data[1000] ^= 1
    damaged.write_bytes(data)
    (parts / "layers.2.mlp.up.weight.part").write_bytes(b"")
    (parts / "layers.2.mlp.gate.weight.part.json").write_text("{")
    (parts / "layers.1.mlp.gate.weight.part.json").write_text('{"record": 5}')
    (parts / "norm.weight.part").unlink()
    assert build("affine-4bit") == 52
    assert digest(out) == first
    config = checkpoint / "config.json"
    config.write_text(config.read_text().replace("{", '{"something": "else", ', 1))
    assert build("affine-4bit") == 0
    assert digest(out) == first


def statistics(columns: int, rows: int, seed: int = 0) -> Stats:
    generator = np.random.default_rng(seed)
    root = generator.standard_normal((columns, columns)).astype(np.float32)
    return Stats(root @ root.T, generator.random(rows, np.float32), generator.integers(-9, 9, (256, 4)).astype(np.int8))


def test_statistics_travel_unchanged(tmp_path: Path) -> None:
    for stats in (statistics(24, 16), Stats(), Stats(row_weights=np.ones(3, np.float32))):
        loaded = load_stats(save_stats(tmp_path / "s.npz", stats))
        for name in ("hessian", "row_weights", "codebook"):
            mine, theirs = getattr(stats, name), getattr(loaded, name)
            assert (mine is None) == (theirs is None)
            if mine is not None:
                assert mine.dtype == theirs.dtype
                np.testing.assert_array_equal(mine, theirs)
        assert stats_digest(loaded) == stats_digest(stats)
    assert stats_digest(statistics(24, 16)) != stats_digest(statistics(24, 16, seed=1))
    # of several pieces, which threads take
    wide = np.zeros((2100, 2100), np.float32)
    assert stats_digest(Stats(wide)) == stats_digest(Stats(wide.copy()))
    for place in ((0, 0), (2099, 2099)):
        other = wide.copy()
        other[place] = 1
        assert stats_digest(Stats(wide)) != stats_digest(Stats(other))
    (tmp_path / "s.npz").write_bytes(b"PK\3\4 nonsense")
    with pytest.raises(UserError, match="cannot read the statistics"):
        load_stats(tmp_path / "s.npz")
    with pytest.raises(UserError, match="cannot read the statistics"):
        load_stats(tmp_path / "nothing.npz")


@pytest.mark.parametrize("jobs", [1, 2])
def test_tensors_with_statistics(tmp_path: Path, jobs: int) -> None:
    """They reach the worker and are gone afterwards; more than fit under way wait their turn; other ones, other key."""
    with open_model(EXAMPLE) as model:
        tensors = [tensor for tensor in model.tensors if tensor.name.endswith("mlp.up.weight")]
        saved = save_stats(tmp_path / "given.npz", statistics(256, 768, seed=9))

        def build(seed: int) -> int:
            with PartPool(model, tmp_path / "parts", jobs=jobs) as pool:
                futures = [pool.submit(tensor, "bitnet", statistics(256, 768, seed)) for tensor in tensors[1:]]
                futures.append(pool.submit(tensors[0], "bitnet", saved))
                assert [future.result().codec for future in futures] == ["bitnet"] * 6
                return pool.kept

        assert build(0) == 0
        assert not list((tmp_path / "parts").glob("inputs/*"))
        assert build(0) == 6
        assert saved.exists()
        with PartPool(model, tmp_path / "parts", jobs=jobs) as pool:
            assert [pool.submit(tensor, "bitnet", statistics(256, 768, 1)).result().codec for tensor in tensors[1:]]
            assert pool.kept == 0
            saved.write_bytes(b"damaged")
            with pytest.raises(UserError, match="cannot read the statistics"):
                pool.submit(tensors[0], "bitnet", saved).result()


def test_extra_blobs(tmp_path: Path) -> None:
    """Shared codebooks: of no checkpoint tensor, at the end of the segment of vectors."""
    payload = np.arange(-128, 128, dtype=np.int8).tobytes()
    extras = {
        "shared.mlp.up.weight": Blob(BlobHeader(Format.INT8, 64, 4), payload),
        "shared.mlp.down.weight": Blob(BlobHeader(Format.INT8, 32, 8), payload[::-1]),
    }
    out = tmp_path / "w"
    with open_model(EXAMPLE) as model, PartPool(model, parts_directory(out), jobs=1) as pool:
        futures = {tensor.name: pool.submit(tensor, "raw") for tensor in model.tensors if tensor.role != "vector"}
        futures |= {tensor.name: pool.submit(tensor, "f32") for tensor in model.tensors if tensor.role == "vector"}
        coded = {name: future.result() for name, future in futures.items()}
        records = pool.assemble(out, model.spec.to_config_bytes(), model.tensors, extras, coded)
        pool.discard()
        vectors = [tensor.name for tensor in model.tensors if tensor.role == "vector"]
    assert [record.name for record in records[-2:]] == list(extras)
    assert (records[-1].codec, records[-1].bytes, records[-1].relative_error) == ("int8", 64 + 256, 0.0)
    with WeightsReader(out) as weights:
        weights.verify()
        ordered = [entry.name for entry in sorted(weights.entries, key=lambda entry: entry.offset)]
        assert ordered[: len(vectors) + 2] == [*vectors, *extras]
        for name, blob in extras.items():
            assert weights.blob(name).to_bytes() == blob.to_bytes()


def test_a_part_that_is_changed_before_the_end_is_noticed(tmp_path: Path) -> None:
    out, parts = tmp_path / "w", tmp_path / "w.parts"
    with open_model(EXAMPLE) as model, PartPool(model, parts, jobs=1) as pool:
        tensors = [tensor for tensor in model.tensors if tensor.role == "body"][:3]
        records = {tensor.name: pool.submit(tensor, "bitnet").result() for tensor in tensors}
        path = parts / f"{tensors[1].name}.part"
        good = path.read_bytes()
        for damage in (good[:-1] + bytes([good[-1] ^ 1]), good[:-1], b"X" + good[1:], None):
            path.unlink() if damage is None else path.write_bytes(damage)
            with pytest.raises(UserError, match="was changed after it was written"):
                pool.assemble(out, model.spec.to_config_bytes(), tensors, {}, records)
            assert not list(tmp_path.glob("w*")) or [p.name for p in tmp_path.glob("w*")] == ["w.parts"]
            assert pool.submit(tensors[1], "bitnet").result() == records[tensors[1].name]  # coded again
            assert path.read_bytes() == good


def test_two_builds_of_one_output(tmp_path: Path) -> None:
    with open_model(EXAMPLE) as model:
        with PartPool(model, tmp_path / "w.parts", jobs=1), pytest.raises(UserError, match="another build is writing"):
            build_weights(EXAMPLE, RECIPE, tmp_path / "w")
        assert list(tmp_path.iterdir()) == []  # nothing was finished, so nothing stays
        (tmp_path / "w.parts").mkdir()
        (tmp_path / "w.parts/mine.txt").write_text("a file of the user's")
        build_weights(EXAMPLE, RECIPE, tmp_path / "w")
        assert [path.name for path in (tmp_path / "w.parts").iterdir()] == ["mine.txt"]


def test_a_codec_that_other_processes_do_not_know(tmp_path: Path) -> None:
    class Nameless(type(codec_by_name("bitnet"))):  # type: ignore[misc]
        name = "mine alone"

    with open_model(EXAMPLE) as model, PartPool(model, tmp_path / "parts", jobs=2) as pool:
        with pytest.raises(UserError, match="unknown codec 'mine alone'"):
            pool.submit(model.tensors[0], Nameless())
        with pytest.raises(UserError, match="unknown codec 'nothing'"):
            pool.submit(model.tensors[0], "nothing")


# ---- the command -----------------------------------------------------------------------------------------------------

BUILD = [sys.executable, "-m", "mobile_bundle.cli.build"]


@pytest.mark.serial
def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "slow.mbundle"
    command = [*BUILD, EXAMPLE, "-o", out, "--recipe", "seedlm-4bit", "--jobs", "2"]
    process = subprocess.Popen(
        list(map(str, command)),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell's & has it ignored
    )
    try:
        end = time.monotonic() + 60
        while not finished_parts(parts_directory(out)):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < end
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1
    last = errors.strip().splitlines()[-1]
    assert last.startswith("build-mobile-bundle: interrupted; ")
    assert "the same command continues from there" in last
    assert "Traceback" not in errors
    assert [path.name for path in tmp_path.iterdir()] == ["slow.mbundle.parts"]


def in_small_room(directory: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs a command that sees another, empty file system of 1 MB at `directory`; skips where that is not allowed."""
    directory.mkdir()
    mount = f"mount -t tmpfs -o size=1m none {directory}"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    inner = ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh", *command]
    return subprocess.run(inner, capture_output=True, text=True, timeout=120, check=False)


NO_ROOM = """
import sys
from mobile_bundle.pipeline.weights import build_weights
from mobile_bundle.errors import UserError
try:
    build_weights(sys.argv[1], "raw", sys.argv[2], lambda *_: print("coded something"))
except UserError as error:
    print(error)
"""


def test_a_disk_without_room_is_noticed_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", NO_ROOM, str(EXAMPLE), str(tmp_path / "room/w")]
    process = in_small_room(tmp_path / "room", command)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("\n") == 1
    assert "and the file made of it: 23.1 MB are needed, 1.0 MB are free" in process.stdout


# ---- a Dask cluster --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Address of a scheduler on loopback, with a worker process of two threads."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=True, host="127.0.0.1", dashboard_address=":0"
    ) as local:
        yield local.scheduler_address


def test_a_cluster_gives_the_same_bytes(tmp_path: Path, undisturbed: str, cluster: str) -> None:
    build_weights(EXAMPLE, RECIPE, tmp_path / "w", cluster=cluster)
    assert digest(tmp_path / "w") == undisturbed
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


def test_a_cluster_goes_on_where_another_build_stopped(tmp_path: Path, undisturbed: str, cluster: str) -> None:
    out = tmp_path / "w"

    def stop(done: int, total: int, name: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_weights(EXAMPLE, RECIPE, out, stop, jobs=1)
    kept = mtimes(parts_directory(out))
    assert kept
    seen: list[dict[str, int]] = []
    build_weights(EXAMPLE, RECIPE, out, lambda *_: seen.append(mtimes(parts_directory(out))), cluster=cluster)
    assert {name: seen[-1][name] for name in kept} == kept
    assert digest(out) == undisturbed


def test_errors_come_back_from_a_cluster(tmp_path: Path, cluster: str) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(EXAMPLE, broken)
    data = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(data[:-2] + b"\x80\x7f")  # an infinity
    with pytest.raises(UserError, match="NaN or infinite"):
        build_weights(broken, "raw", tmp_path / "w", cluster=cluster)


def test_statistics_reach_a_cluster(tmp_path: Path, cluster: str) -> None:
    with open_model(EXAMPLE) as model, PartPool(model, tmp_path / "parts", cluster=cluster) as pool:
        tensors = [tensor for tensor in model.tensors if tensor.name.endswith("mlp.up.weight")]
        futures = [pool.submit(tensor, "bitnet", statistics(256, 768, seed)) for seed, tensor in enumerate(tensors)]
        assert [future.result().name for future in futures] == [tensor.name for tensor in tensors]


def test_a_cluster_that_goes_away(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp://", host="127.0.0.1", dashboard_address=":0"
    ) as local:

        def stop(done: int, total: int, name: str) -> None:
            local.close()

        with pytest.raises(UserError, match="the Dask cluster failed"):
            build_weights(EXAMPLE, RECIPE, tmp_path / "w", stop, cluster=local.scheduler_address)
    assert finished_parts(tmp_path / "w.parts")


def test_a_cluster_that_is_not_there(tmp_path: Path) -> None:
    dask = pytest.importorskip("dask")
    pytest.importorskip("distributed")
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(UserError, match=r"cannot reach a Dask scheduler at tcp://127\.0\.0\.1:9"),
    ):
        build_weights(EXAMPLE, RECIPE, tmp_path / "w", cluster="tcp://127.0.0.1:9")
    with pytest.raises(UserError, match="cannot reach a Dask scheduler at nonsense"):
        build_weights(EXAMPLE, RECIPE, tmp_path / "w", cluster="nonsense://x")
    assert list(tmp_path.iterdir()) == []


def test_a_worker_on_another_file_system_is_refused(tmp_path: Path) -> None:
    """A worker in a mount namespace of its own, where the place of the output is an empty file system."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=0, processes=False, protocol="tcp://", host="127.0.0.1", dashboard_address=":0"
    ) as local:
        address = local.scheduler_address
        with pytest.raises(UserError, match="has no workers"):
            build_weights(EXAMPLE, RECIPE, tmp_path / "here/w", cluster=address)
        (tmp_path / "here").mkdir(exist_ok=True)
        mount = f"mount -t tmpfs -o size=1m none {tmp_path / 'here'}"
        if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True, check=False).returncode:
            pytest.skip("needs the right to mount")
        worker = [
            sys.executable,
            "-m",
            "distributed.cli.dask_worker",
            address,
            "--no-dashboard",
            "--no-nanny",
            "--nthreads",
            "1",
        ]
        process = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh", *worker, "--local-directory", str(tmp_path)],
            stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            with distributed.Client(address, set_as_default=False) as client:
                client.wait_for_workers(1, timeout=60)
            with pytest.raises(UserError, match=r"does not see .*: checkpoint and output must lie on a file system"):
                build_weights(EXAMPLE, RECIPE, tmp_path / "here/w", cluster=address)
        finally:
            process.terminate()
            process.wait(30)
    assert not (tmp_path / "here/w.parts").exists()
