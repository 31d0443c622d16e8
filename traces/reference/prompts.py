"""Write the prompts of the shipped sample: held-out text of permissive licence, and sentences of our own.

    python -m traces.reference.prompts [folder=.text] [out=traces/reference/prompts.jsonl] [each=8] [seed=0]

The handbook's licence does not suit this repository, so its languages are prompted with our own sentences.
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
from traces.reference import Folder
from traces.reference.tokens import DOMAINS, Domain, documents

LICENCES = {
    "mathematics": "CC0-1.0",
    "python": "PSF-2.0",
    "speeches": "public domain",
    "novel": "public domain",
    "poetry": "public domain",
}
PROMPT_TOKENS = (24, 96)
NEW_TOKENS = (24, 64)

OWN: dict[str, list[str]] = json.loads(PROMPTS_FILE.with_name("own.json").read_text(encoding="utf-8"))
"""By domain."""


@dataclass(frozen=True)
class Options:
    """Writes the prompts of the shipped sample."""

    folder: Folder = Path(".text")
    out: Annotated[Path, "the file"] = PROMPTS_FILE
    each: Annotated[int, Between(1, MOST), "prompts of a domain"] = 8
    seed: Annotated[int, Between(0, MOST), "of the choice"] = 0


def excerpts(domain: Domain, folder: Path, tokenizer: Tokenizer, rng: random.Random) -> Iterator[str]:
    """Excerpts of PROMPT_TOKENS tokens from the domain's held-out documents, each from a line's start."""
    low, high = PROMPT_TOKENS
    texts = list(documents(domain, folder, heldout=True))
    while True:
        text = rng.choice(texts)
        starts = [0, *(i + 1 for i, character in enumerate(text) if character == "\n")]
        start = rng.choice(starts)
        encoding = tokenizer.encode(text[start : start + 2000])
        size = rng.randint(low, high)
        if len(encoding) < size:
            continue
        # A byte-level token may end within a character: end with the last whole one.
        excerpt = tokenizer.decode(encoding.ids[:size]).rstrip("\ufffd").strip()
        if low <= len(tokenizer.encode(excerpt)) <= high:
            yield excerpt


def main(options: Options) -> None:
    """Write the prompts file, domains interleaved: a function of the text and the seed."""
    rng = random.Random(options.seed)
    folder = options.folder
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    lines = []
    for domain in DOMAINS:
        if domain.name in OWN:
            chosen, licence = OWN[domain.name], "CC0-1.0"
        else:
            source = excerpts(domain, folder, tokenizer, rng)
            chosen, licence = [next(source) for _ in range(options.each)], LICENCES[domain.name]
        for text in chosen:
            new_tokens = rng.randint(*NEW_TOKENS)
            line = {"prompt": text, "source": domain.name, "licence": licence, "max_new_tokens": new_tokens}
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    rng.shuffle(lines)
    write_whole(options.out, "".join(lines))
    print(f"wrote {len(lines)} prompts", file=sys.stderr)


if __name__ == "__main__":
    run_module(main)
