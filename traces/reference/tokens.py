"""Text to token arrays: a byte-level BPE of 4,096 tokens, and one uint16 array per domain and part.

    python -m traces.reference.tokens [folder=.text]

writes FOLDER/tokenizer.json, FOLDER/tokens/DOMAIN.{train,heldout}.npy and FOLDER/sources.json. Training needs
nothing else, so that it can run on a machine without a network.
"""

import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from traces.kit.command import run_module
from traces.kit.strict import dump_json
from traces.kit.whole import write_whole
from traces.reference import Folder
from traces.reference.text import DOMAINS, Domain, fetch, held_out, package_folder

VOCABULARY = 4096
END_OF_TEXT = "<|endoftext|>"
MAX_CHARS = 16 << 20  # per domain: mathematics and poetry would otherwise fill the disk, not the model
TOKENIZER_CHARS = 800_000  # per domain, so that no domain owns the vocabulary


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
