"""The frame of HTML pages that need no other file."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def html_page(title: str, style: str, head: Sequence[str], body: str) -> str:
    """A whole page: its title, a paragraph for each line of `head`, and the markup `body`. `style` is CSS."""
    lines = "".join(f"<p>{escape(line)}</p>" for line in head)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{style}</style></head>\n<body><h1>{escape(title)}</h1>{lines}\n{body}\n</body></html>\n"
    )
