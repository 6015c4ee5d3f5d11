"""The frame of a page: one HTML file that needs nothing else, for a screen, a phone or paper, light or dark.

Its policy (Content-Security-Policy) lets no script run but its own and nothing be loaded from anywhere."""

from __future__ import annotations

import base64
import hashlib
import os
from html import escape
from importlib import resources
from pathlib import Path

from mobile_bundle.container.disk import write_file


def html_document(title: str, body: str, style: str = "") -> str:
    """The whole HTML document. title: escaped here; body: HTML; style: CSS beyond what all pages share."""
    shared, script = _resource("page.css"), _resource("page.js")
    own = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{own}'"
    head = (
        '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>\n{shared}{style}</style>"
    )
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n'
        f"<body>\n<main>\n{body}\n</main>\n<script>{script}</script>\n</body>\n</html>\n"
    )


def tile(title: str, figure: str, text: str) -> str:
    """A figure that a person asks for first. title, figure: HTML; text: escaped here."""
    return f'<div class="tile"><dt>{title}</dt><dd><div class="figure">{figure}</div>{escape(text)}</dd></div>'


def replace_file(path: Path, text: str) -> None:
    """Writes the file whole or not at all. A character that UTF-8 has no bytes for becomes a question mark."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        write_file(partial, text.encode("utf-8", "replace"))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _resource(name: str) -> str:
    return resources.files("mobile_bundle.report").joinpath(name).read_text("utf-8")
