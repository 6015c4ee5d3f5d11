"""How a model of the Hugging Face hub gets to a local path, before anything else opens it.

huggingface_hub does the work: its cache, its environment variables (HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN, HF_HOME),
its checks and retries. Here is decided which files of a repository are needed, and what a person reads when it
fails."""

from __future__ import annotations

import importlib
import os
import re
import threading
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from types import ModuleType
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from mobile_bundle.errors import ArgumentError, InputError, InstallationError, ResumableError, UserError
from mobile_bundle.files.inputs import read_json_object
from mobile_bundle.models.weight_files import INDEX, SINGLE, is_shard

Progress = Callable[[int, int, str], None]

_ID = re.compile(r"(?![.-])[A-Za-z0-9_.-]{1,96}(?<![.-])/(?![.-])[A-Za-z0-9_.-]{1,96}(?<![.-])")
_SMALL = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
    "adapter_config.json",
    "README.md",
    INDEX,
)
"""What is read beside the weights. README.md names the licence; an adapter_config.json is what tells an adapter."""
_POLL = 0.2
"""Seconds between two looks at a download's progress."""


def is_hub_id(model: str | os.PathLike[str]) -> bool:
    """Whether it is no path of this machine and looks like OWNER/NAME. A path that exists is never an id, nor is one
    that says it is a path (./OWNER/NAME)."""
    text = os.fspath(model)
    return isinstance(text, str) and bool(_ID.fullmatch(text)) and not os.path.lexists(text)


def local_model(
    model: str | os.PathLike[str],
    revision: str | None = None,
    progress: Progress = lambda done, total, what: None,
    tell: Callable[[str], None] = lambda line: None,
) -> Path:
    """The path of a checkpoint directory, GGUF file or bundle; a model of the hub is downloaded into the cache of
    huggingface_hub first.

    revision: a branch, a tag or a commit on the hub (None: main). progress: bytes downloaded, bytes in all, the model;
    called in this thread. It may raise, which ends the download. tell: told which commit is used.

    InstallationError without huggingface_hub; InputError where the hub does not have it, does not give it, or cannot be
    reached while the cache does not have it; ResumableError for a full disk."""
    if not is_hub_id(model):
        if revision is not None:
            raise ArgumentError(f"`revision` {revision}: is for a model of the hub, and {os.fspath(model)} is a path")
        return Path(model)
    name = os.fspath(model)
    hub = _library(name)
    errors = importlib.import_module("huggingface_hub.errors")
    try:
        path = _download(hub, name, revision, progress)
    except UserError:
        raise
    except Exception as error:
        # Whatever the library raises (its own errors, the HTTP client's, the system's): the download has failed.
        raise _explained(errors, name, revision, error) from error
    folder = path if path.is_dir() else path.parent
    tell(f"{name}: commit {folder.name[:12]} of the hub, in {path}")
    return path


def _library(name: str) -> ModuleType:
    needs = f"{name} is no path here, and reading a model of the hub needs huggingface_hub"
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise InstallationError(needs, "pip install huggingface_hub") from error
    if not hasattr(hub, "get_cached_repo_tree"):
        raise InstallationError(f"{needs} 2.4 or later, not {hub.__version__}", "pip install --upgrade huggingface_hub")
    return hub


def _download(hub: ModuleType, name: str, revision: str | None, progress: Progress) -> Path:
    """The small files first: they say which weights are needed. The commit that they are of is then fixed."""

    def fetch(revision: str | None, patterns: Collection[str], progress: Progress) -> Path:
        bars, told = _Bars(), (0, 0)
        with ThreadPoolExecutor(1) as pool:
            snapshot = pool.submit(
                hub.snapshot_download, name, revision=revision, allow_patterns=[*patterns], tqdm_class=bars.new_class()
            )
            try:
                while not wait([snapshot], _POLL).done or bars.state() != told:
                    told = bars.state()
                    if told[1]:
                        progress(*told, name)
            except BaseException:
                bars.stop()
                raise
        return Path(snapshot.result())

    folder = fetch(revision, _SMALL, lambda done, total, what: None)
    try:
        listed = [file.path for file in hub.get_cached_repo_tree(name, revision=folder.name)]
    except importlib.import_module("huggingface_hub.errors").CachedRepoTreeNotFoundError:
        listed = [path.name for path in folder.iterdir()]  # cached by an older version: what is there has to do
    weights = _weights(name, folder, [path for path in listed if "/" not in path])
    fetch(folder.name, weights, progress)
    return folder if len(weights) != 1 or not weights[0].endswith(".gguf") else folder / weights[0]


def _weights(name: str, folder: Path, listed: Collection[str]) -> list[str]:
    """The files that hold the weights, as models/weight_files.py will choose them. listed: files of the repository."""
    named, index = _member(folder / "config.json", "transformers_weights"), _member(folder / INDEX, "weight_map")
    if isinstance(named, str) and named in listed:
        return [named]
    if SINGLE in listed:
        return [SINGLE]
    wanted = set(map(str, index.values())) if isinstance(index, dict) else set(filter(is_shard, listed))
    if shards := sorted(wanted.intersection(listed)):
        return shards
    files = sorted(file for file in listed if file.endswith(".gguf"))
    if len(files) == 1:
        return files
    if files:
        raise InputError(
            f"{name} has {len(files)} GGUF files and no safetensors: {_few(files)}",
            f"download the one you want (hf download {name} {files[0]}) and give its path",
        )
    raise InputError(
        f"{name} has neither safetensors of a model nor a GGUF file; it holds {_few(listed)}",
        "load it with transformers, call save_pretrained(DIRECTORY), and give that directory",
    )


def _member(path: Path, key: str) -> Any:
    """A member of a JSON file. None if there is no such file, or if it is damaged, which is said when it is opened."""
    try:
        return read_json_object(path).get(key)
    except (OSError, UserError):
        return None


def _few(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:4]) + (" ..." if len(listed) > 4 else "") if listed else "nothing"


def _explained(errors: ModuleType, name: str, revision: str | None, error: Exception) -> UserError:
    """The library's error in one line."""
    login = "if you may read it, log in with `hf auth login` or set HF_TOKEN"
    if isinstance(error, errors.GatedRepoError):
        return InputError(f"{name} is gated", f"accept its terms on its page of the hub; {login}")
    if isinstance(error, errors.RepositoryNotFoundError):
        return InputError(
            f"{name} does not exist: neither here as a path nor, for you, on the hub", f"check the name; {login}"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return InputError(f"{name} has no revision {revision}", "give a branch, a tag or a commit (`revision`)")
    if isinstance(error, errors.LocalEntryNotFoundError):
        if importlib.import_module("huggingface_hub.constants").HF_HUB_OFFLINE:
            return InputError(
                f"{name} does not exist here as a path, nor whole in the hub's cache, and HF_HUB_OFFLINE is set",
                "unset it, or give a path",
            )
        return InputError(
            f"{name} does not exist here as a path, and the hub cannot be reached ({_reason(error)})",
            "connect to the network, or give a path",
        )
    if isinstance(error, errors.HfHubHTTPError):
        return InputError(f"{name}: the hub answered {_line(error)}", "try again later")
    if isinstance(error, OSError) and error.errno is not None:
        return ResumableError(
            f"{name} cannot be kept in the hub's cache: {error.strerror or _line(error)}", "make room"
        )
    return ResumableError(f"{name}: the download broke off ({_line(error)})", "the same command downloads the rest")


def _reason(error: BaseException) -> str:
    """The innermost reason: the library wraps what the network said."""
    while error.__cause__ is not None:
        error = error.__cause__
    return _line(error)


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:120] if lines else type(error).__name__


class _Bars:
    """The library's progress bars, which print nothing here: another thread asks for their state."""

    def __init__(self) -> None:
        self._bytes: list[Any] = []
        self._stopped = threading.Event()

    def new_class(self) -> type[Any]:
        """A class of bars that report here."""
        bars = self

        class Bar(tqdm):  # type: ignore[misc]
            def __init__(self, *arguments: Any, **options: Any) -> None:
                super().__init__(*arguments, **{**options, "disable": True})
                if options.get("unit") == "B":
                    bars._bytes.append(self)

            def update(self, count: float | None = 1) -> None:
                if bars._stopped.is_set():
                    raise InterruptedError("the download was stopped")
                self.n += count or 0

        return Bar

    def state(self) -> tuple[int, int]:
        """(bytes downloaded, bytes in all), as far as they are known."""
        done = max((int(bar.n) for bar in self._bytes), default=0)
        return done, max([done, *(int(bar.total or 0) for bar in self._bytes)])

    def stop(self) -> None:
        """Ends the download at its next bytes."""
        self._stopped.set()
