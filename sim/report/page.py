"""HTML by the standard library's element tree: every text and attribute is escaped where it is written."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from xml.etree.ElementTree import Element, SubElement, tostring

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #111; background: #fff; }
body { max-width: 78rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.4rem; border-bottom: 1px solid #bbb; }
table { border-collapse: collapse; font-size: .85rem; } caption { text-align: left; padding: .4rem 0; color: #444; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th { border-bottom: 2px solid #888; } th:first-child, td:first-child, .text td, .text th { text-align: left; }
tr.group td { font-weight: bold; padding-top: .7rem; } tr.reference td { color: #555; font-style: italic; }
.wide { overflow-x: auto; } figure { margin: 1.2rem 0; } figcaption { color: #333; }
img { max-width: 100%; height: auto; }
@media screen and (max-width: 50rem) { figure { overflow-x: auto; } img { max-width: none; width: 56rem; } }
code { font: .8rem ui-monospace, monospace; } td code { white-space: pre; user-select: all; } .quiet { color: #555; }
@media print {
  @page { size: A4 landscape; margin: 1cm; } body { margin: 0; max-width: none; padding: 0; }
  .wide { overflow: visible; } table { font-size: 6.5pt; } code { font-size: 6pt; }
  th, td { white-space: normal; overflow-wrap: break-word; padding: .1rem .25rem; } td code { white-space: pre-wrap; }
  h2 { break-after: avoid; } figure, tr { break-inside: avoid; } img { max-height: 15cm; width: auto; }
}
"""

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What the page tells a browser: load nothing from anywhere."""

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


class Page:
    """A page that is written from top to bottom."""

    def __init__(self, title: str) -> None:
        self._html = Element("html", lang="en")
        head = SubElement(self._html, "head")
        SubElement(head, "meta", charset="utf-8")
        SubElement(head, "meta", {"http-equiv": "Content-Security-Policy", "content": POLICY})
        SubElement(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
        # Without this, browsers ask the server for /favicon.ico.
        SubElement(head, "link", rel="icon", href="data:,")
        self._say(head, "title", title)
        self._say(head, "style", STYLE)
        self._body = SubElement(self._html, "body")
        self._say(self._body, "h1", title)

    def heading(self, text: str) -> None:
        """A section begins."""
        self._say(self._body, "h2", text)

    def text(self, text: str, kind: str = "") -> None:
        """A paragraph; ``kind``: a class of STYLE."""
        self._say(self._body, "p", text, kind)

    def code(self, text: str) -> None:
        """A paragraph that is a command."""
        self._say(SubElement(self._body, "p"), "code", text)

    def points(self, lines: Iterable[str]) -> None:
        """A list."""
        listed = SubElement(self._body, "ul")
        for line in lines:
            self._say(listed, "li", line)

    def table(
        self, heads: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]], caption: str = "", kind: str = ""
    ) -> None:
        """Rows with a class each. A cell that begins with a backtick is a command."""
        table = SubElement(SubElement(self._body, "div", {"class": "wide"}), "table")
        if kind:
            table.set("class", kind)
        if caption:
            self._say(table, "caption", caption)
        top = SubElement(SubElement(table, "thead"), "tr")
        for head in heads:
            self._say(top, "th", head)
        body = SubElement(table, "tbody")
        for style, cells in rows:
            row = SubElement(body, "tr", {"class": style} if style else {})
            for cell in cells:
                if cell.startswith("`"):
                    self._say(SubElement(row, "td"), "code", cell[1:])
                else:
                    self._say(row, "td", cell)

    def picture(self, png: bytes, caption: str) -> None:
        """A picture, inlined."""
        figure = SubElement(self._body, "figure")
        data = base64.b64encode(png).decode()
        SubElement(figure, "img", src=f"data:image/png;base64,{data}", alt=caption)
        self._say(figure, "figcaption", caption)

    def render(self) -> bytes:
        """The page in UTF-8."""
        html: bytes = tostring(self._html, encoding="utf-8", method="html")
        return b"<!DOCTYPE html>\n" + html + b"\n"

    @staticmethod
    def _say(parent: Element, tag: str, text: str, kind: str = "") -> None:
        element = SubElement(parent, tag, {"class": kind} if kind else {})
        # The element tree escapes, but lets through what no document may hold.
        element.text = _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)
