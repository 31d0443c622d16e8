"""Write the prompts of the shipped sample: held-out text of permissive licence, and sentences of our own.

    python -m traces.tiny_moe.prompts [folder=.text] [out=traces/tiny_moe/prompts.jsonl] [each=1] [seed=0]

The handbook's licence does not suit this repository, so its languages are prompted with sentences of our own.
"""

import json
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tokenizers import Tokenizer

from traces.kit.command import run_module
from traces.kit.conf import PROMPTS_FILE
from traces.kit.vocabulary import MOST
from traces.kit.whole import write_whole
from traces.kit.words import Between
from traces.tiny_moe import Folder
from traces.tiny_moe.tokens import DOMAINS, Domain, documents

LICENCES = {
    "mathematics": "CC0-1.0",
    "python": "PSF-2.0",
    "speeches": "public domain",
    "novel": "public domain",
    "poetry": "public domain",
}
TEST_TOKENS = (22, 26, 34, 48, 80)
LONGEST_TOKENS = {"python": 800, "speeches": 320, "mathematics": 220, "novel": 160, "poetry": 120}
"""One more test prompt of each: real prompts are mostly short, and a few are long."""
TRAIN_TOKENS = (24, 36, 48)
NEW_TOKENS = (16, 32)

OWN: dict[str, dict[str, list[str]]] = json.loads(PROMPTS_FILE.with_name("own.json").read_text(encoding="utf-8"))
"""By domain and split."""


@dataclass(frozen=True)
class Options:
    """Writes the prompts of the shipped sample."""

    folder: Folder = Path(".text")
    out: Annotated[Path, "the file"] = PROMPTS_FILE
    each: Annotated[int, Between(1, MOST), "times as many excerpts"] = 1
    seed: Annotated[int, Between(0, MOST), "of the choice"] = 0


class Excerpts:
    """Excerpts of the domain's held-out documents, each from a line's start."""

    def __init__(self, domain: Domain, folder: Path, tokenizer: Tokenizer, rng: random.Random) -> None:
        self.texts = list(documents(domain, folder, heldout=True))
        self.tokenizer, self.rng = tokenizer, rng

    def next(self, size: int) -> str:
        """One of `size` tokens, or of one or two less where it would end within a character or in white space."""
        while True:
            text = self.rng.choice(self.texts)
            starts = [0, *(i + 1 for i, character in enumerate(text) if character == "\n")]
            start = self.rng.choice(starts)
            encoding = self.tokenizer.encode(text[start : start + 8 * size])
            if len(encoding) < size:
                continue
            # A byte-level token may end within a character: end with the last whole one.
            excerpt: str = self.tokenizer.decode(encoding.ids[:size]).rstrip("\ufffd").strip()
            if size - 2 <= len(self.tokenizer.encode(excerpt)) <= size:
                return excerpt


def prompts_of(domain: Domain, options: Options, tokenizer: Tokenizer, rng: random.Random) -> Iterator[tuple[str, str]]:
    """(text, split) of the domain's prompts."""
    if domain.name in OWN:
        yield from ((text, split) for split, texts in OWN[domain.name].items() for text in texts)
        return
    source = Excerpts(domain, options.folder, tokenizer, rng)
    for _ in range(options.each):
        yield from ((source.next(size), "test") for size in (*TEST_TOKENS, LONGEST_TOKENS[domain.name]))
        yield from ((source.next(size), "train") for size in TRAIN_TOKENS)


def main(options: Options) -> None:
    """Write the prompts file, domains interleaved: a function of the text and the seed."""
    rng = random.Random(options.seed)
    tokenizer = Tokenizer.from_file(str(options.folder / "tokenizer.json"))
    lines = []
    for domain in DOMAINS:
        licence = LICENCES.get(domain.name, "CC0-1.0")
        for text, split in prompts_of(domain, options, tokenizer, rng):
            new_tokens = rng.randint(*NEW_TOKENS)
            line = {"prompt": text, "source": domain.name, "split": split, "licence": licence}
            lines.append(json.dumps(line | {"max_new_tokens": new_tokens}, ensure_ascii=False) + "\n")
    rng.shuffle(lines)
    write_whole(options.out, "".join(lines))
    print(f"wrote {len(lines)} prompts", file=sys.stderr)


if __name__ == "__main__":
    run_module(main)
