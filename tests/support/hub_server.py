"""A stand-in of the Hugging Face hub on loopback: as much of its HTTP interface as huggingface_hub needs to list and
download the files of a model.

Paths and headers are those that huggingface_hub 2.4 asks for (hf_api.py, file_download.py):
/api/models/ID/revision/REV, /api/models/ID/tree/COMMIT, /ID/resolve/COMMIT/FILE with ETag, X-Repo-Commit, X-Linked-Size
and X-Linked-Etag, byte ranges, errors by X-Error-Code, and a redirect to other storage for large files."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = 100_000
"""Bytes from which on a file lies in other storage, as git-lfs files do on the hub."""


@dataclass(frozen=True)
class Request:
    """What was asked for. range: the header, or "" for the whole file."""

    method: str
    path: str
    range: str


@dataclass
class Hub:
    """repositories: files of each model, by its name and their path. gated, denied: models for which the server asks
    for a login. break_off: of a file, after how many bytes the connection ends, each once. requests: what was asked."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    break_off: dict[str, list[int]] = field(default_factory=dict)
    broken: bool = False
    requests: list[Request] = field(default_factory=list)
    url: str = ""

    def add(self, name: str, folder: Path, **more: bytes) -> None:
        """A model with the files of a folder, and more, whose names have "__" for a dot."""
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        self.repositories[name] = files | {key.replace("__", "."): value for key, value in more.items()}

    def commit(self, name: str) -> str:
        """The commit of a model's main branch: it changes with the files."""
        digest = hashlib.sha1(name.encode())
        for path, data in sorted(self.repositories[name].items()):
            digest.update(path.encode() + b"\0" + data)
        return digest.hexdigest()

    def downloaded(self) -> list[str]:
        """Files whose bytes were asked for, in alphabetical order."""
        where = re.compile(r"/(?:storage/[^/]+/[^/]+|[^/]+/[^/]+/resolve/[^/]+)/(.+)")
        gets = (where.fullmatch(request.path) for request in self.requests if request.method == "GET")
        return sorted({match[1] for match in gets if match})

    def environment(self, home: Path) -> dict[str, str]:
        """Variables for a process that is to talk to this hub alone. home: where the library keeps its cache."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        return {**ours, "HF_ENDPOINT": self.url, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1"}


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """A hub that answers while it is the context."""
    hub = Hub()

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    served: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.served.requests.append(Request(self.command, path, self.headers.get("Range", "")))
        if self.served.broken:
            return self._refuse(500, "")
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            return self._info(match[1], match[2] or "main")
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            return self._tree(match[1], match[2])
        if match := re.fullmatch(r"/storage/([^/]+/[^/]+)/(.+)", path):
            return self._file(match[1], match[2], linked=False)
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._resolve(*match.groups())
        return self._refuse(404, "")

    def _known(self, name: str, revision: str) -> bool:
        """Whether the model and its revision are there; answers if they are not."""
        if name not in self.served.repositories:
            self._refuse(401, "RepoNotFound")  # as the hub does for those who are not logged in
        elif revision not in ("main", self.served.commit(name)):
            self._refuse(404, "RevisionNotFound")
        else:
            return True
        return False

    def _info(self, name: str, revision: str) -> None:
        if self._known(name, revision):
            siblings = [{"rfilename": path} for path in self.served.repositories[name]]
            self._json({"_id": "0", "id": name, "sha": self.served.commit(name), "private": False, "tags": [],
                        "downloads": 0, "likes": 0, "siblings": siblings})  # fmt: skip

    def _tree(self, name: str, revision: str) -> None:
        if not self._known(name, revision):
            return
        entries = []
        for path, data in self.served.repositories[name].items():
            entry: dict[str, Any] = {"type": "file", "oid": _oid(data), "size": len(data), "path": path}
            if len(data) >= LARGE:
                entry["lfs"] = {"oid": _sha256(data), "size": len(data), "pointerSize": 134}
            entries.append(entry)
        self._json(entries)

    def _resolve(self, name: str, revision: str, path: str) -> None:
        if not self._known(name, revision):
            return
        if name in self.served.gated:
            return self._refuse(401, "GatedRepo")
        data = self.served.repositories[name].get(path)
        if data is None:
            return self._refuse(404, "EntryNotFound")
        if len(data) < LARGE:
            return self._file(name, path, linked=True)
        self.send_response(302)
        self.send_header("Location", f"{self.served.url}/storage/{name}/{path}")
        self.send_header("X-Repo-Commit", self.served.commit(name))
        self.send_header("X-Linked-Size", str(len(data)))
        self.send_header("X-Linked-Etag", f'"{_sha256(data)}"')
        self.send_header("Content-Length", "0")
        self.end_headers()
        return None

    def _file(self, name: str, path: str, linked: bool) -> None:
        data = self.served.repositories[name][path]
        begin = 0
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            begin = int(match[1])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("ETag", f'"{_oid(data) if linked else _sha256(data)}"')
        self.send_header("X-Repo-Commit", self.served.commit(name))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - begin))
        self.end_headers()
        if self.command == "HEAD":
            return
        ends = self.served.break_off.get(path)
        if ends:
            self.wfile.write(data[begin : begin + ends.pop(0)])
            self.close_connection = True
        else:
            self.wfile.write(data[begin:])

    def _json(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _oid(data: bytes) -> str:
    """git's name of a blob."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
