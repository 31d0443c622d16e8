"""HTML by the standard library's element tree: every text and attribute is escaped where it is written."""

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from importlib.resources import files
from urllib.parse import quote
from xml.etree.ElementTree import Element, SubElement, tostring

STYLE = files("sim.results.report").joinpath("page.css").read_text(encoding="utf-8")
SCRIPT = files("sim.results.report").joinpath("sort.js").read_text(encoding="utf-8")
"""Sorts tables. The page is whole without it."""

_DIGEST = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
POLICY = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{_DIGEST}'"
"""What the page tells a browser: load nothing from anywhere, and run that script alone."""

NARROW, LONG = 4, 30
"""Columns, and characters of a cell, that a narrow screen has room for."""
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


class Page:
    """A page that is written from top to bottom; its contents stand where :meth:`contents` was called."""

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
        self._listed: Element | None = None
        self._places = 0

    def contents(self) -> None:
        """Here is the list of all headings to come."""
        nav = SubElement(self._body, "nav", {"aria-label": "Contents"})
        self._listed = SubElement(nav, "ul")

    def heading(self, text: str, level: int = 2) -> None:
        """A section begins, of level 2 or 3."""
        self._places += 1
        element = self._say(self._body, f"h{level}", text)
        element.set("id", f"part-{self._places}")
        if self._listed is not None:
            item = SubElement(self._listed, "li", {"class": f"level{level}"})
            self._say(item, "a", text).set("href", f"#part-{self._places}")

    def text(self, text: str, kind: str = "") -> None:
        """A paragraph; ``kind``: a class of STYLE."""
        self._say(self._body, "p", text, kind)

    def link(self, before: str, file: str, after: str = "") -> None:
        """A paragraph that names a file which lies beside the page."""
        paragraph = self._say(self._body, "p", before)
        name = self._say(paragraph, "a", file)
        # Else a name such as a:b were another protocol.
        name.set("href", f"./{quote(file)}")
        name.tail = _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", after)

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
        listed = list(rows)
        if len(heads) > NARROW or any(len(cell) > LONG for _, cells in listed for cell in cells):
            self._say(self._body, "p", "The table is wider than this screen: scroll it sideways.", "hint")
        # What scrolls is to be reached by the keyboard.
        scrolled = {"class": "wide", "tabindex": "0", "role": "region", "aria-label": caption or ", ".join(heads[:3])}
        table = SubElement(SubElement(self._body, "div", scrolled), "table")
        if kind:
            table.set("class", kind)
        if caption:
            self._say(table, "caption", caption)
        top = SubElement(SubElement(table, "thead"), "tr")
        for head in heads:
            self._say(top, "th", head).set("scope", "col")
        body = SubElement(table, "tbody")
        for style, cells in listed:
            row = SubElement(body, "tr", {"class": style} if style else {})
            for cell in cells:
                if cell.startswith("`"):
                    self._say(SubElement(row, "td"), "code", cell[1:])
                else:
                    self._say(row, "td", cell)

    def pictures(self, panels: Iterable[tuple[str, bytes]], caption: str) -> None:
        """SVG images beside each other as far as there is room, inlined; each with what it shows."""
        figure = SubElement(self._body, "figure")
        self._say(figure, "figcaption", caption)
        row = SubElement(figure, "div", {"class": "panels"})
        for title, svg in panels:
            # Not in Base64, which is a third longer.
            data = quote(svg.decode(), safe=" /:=;,?!@$&'()*+-._~|")
            SubElement(row, "img", src=f"data:image/svg+xml,{data}", alt=_UNPRINTABLE.sub("", title))

    def render(self) -> bytes:
        """The page in UTF-8."""
        if self._body.find("script") is None:
            SubElement(self._body, "script").text = SCRIPT
        html: bytes = tostring(self._html, encoding="utf-8", method="html")
        return b"<!DOCTYPE html>\n" + html + b"\n"

    @staticmethod
    def _say(parent: Element, tag: str, text: str, kind: str = "") -> Element:
        element = SubElement(parent, tag, {"class": kind} if kind else {})
        # The element tree escapes, but lets through what no document may hold.
        element.text = _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)
        return element
