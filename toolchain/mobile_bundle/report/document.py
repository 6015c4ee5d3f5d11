"""The frame of a page: one HTML file that needs nothing else, for a screen, a phone or paper, light or dark.

Its policy (Content-Security-Policy) lets no script run but its own and nothing be loaded from anywhere."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from importlib import resources


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


def _resource(name: str) -> str:
    return resources.files("mobile_bundle.report").joinpath(name).read_text("utf-8")
