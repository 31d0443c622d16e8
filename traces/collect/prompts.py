"""The prompts to record: plain text, one per line, or JSON lines."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from traces.errors import UserError, one_of

SPLITS = ("train", "test")
KEYS = ("prompt", "source", "split", "licence", "max_new_tokens")


@dataclass(frozen=True)
class Prompt:
    """One prompt. `split` None: drawn by assign_splits; `max_new_tokens` None: as for all."""

    text: str
    source: str
    split: str | None = None
    licence: str | None = None
    max_new_tokens: int | None = None


def read_prompts(path: Path, limit: int | None = None) -> list[Prompt]:
    """The first `limit` prompts of `path`; one whose name ends in .jsonl holds an object per line.

    Blank lines do not count. The source of a prompt is the file's name without its suffix unless the line
    says otherwise. Raises UserError with file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"prompts={str(path)!r} cannot be read as text: {error}") from None
    prompts: list[Prompt] = []
    for number, line in enumerate(lines, start=1):
        if limit is not None and len(prompts) == limit:
            break
        if line.strip():
            where = f"{path.name}, line {number}"
            as_json = path.suffix == ".jsonl"
            prompts.append(_from_json(line, path.stem, where) if as_json else Prompt(line, path.stem))
    if not prompts:
        raise UserError(f"prompts={str(path)!r} holds no prompt")
    return prompts


def _from_json(line: str, stem: str, where: str) -> Prompt:
    try:
        record: Any = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error})") from None
    if not isinstance(record, dict) or not isinstance(record.get("prompt"), str):
        raise UserError(f'{where}: not an object with a "prompt" text')
    if unknown := set(record) - set(KEYS):
        raise UserError(f"{where}: unknown key {min(unknown)!r}; allowed: {one_of(KEYS)}")
    for key in ("source", "licence"):
        if not isinstance(record.get(key, ""), str):
            raise UserError(f"{where}: {key} is {record[key]!r}; allowed: text")
    if record.get("split") not in (None, *SPLITS):
        raise UserError(f"{where}: split is {record['split']!r}; allowed: {one_of(SPLITS)}")
    count = record.get("max_new_tokens")
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
        raise UserError(f"{where}: max_new_tokens is {count!r}; allowed: a whole number, at least 1")
    return Prompt(record["prompt"], record.get("source", stem), record.get("split"), record.get("licence"), count)


def assign_splits(prompts: list[Prompt], train_share: float, seed: int) -> list[Prompt]:
    """Give every prompt without a split one: per source, a seeded `train_share` of them are for training.

    Where rounding, source by source, would leave no test prompt at all, one drawn at random is for testing.
    """
    splits = [prompt.split for prompt in prompts]
    drawn = [i for i, split in enumerate(splits) if split is None]
    for source in dict.fromkeys(prompt.source for prompt in prompts):
        open_ones = [i for i, prompt in enumerate(prompts) if prompt.source == source and splits[i] is None]
        random.Random(f"{seed} {source}").shuffle(open_ones)
        train = round(train_share * len(open_ones))
        for place, index in enumerate(open_ones):
            splits[index] = "train" if place < train else "test"
    if "test" not in splits and train_share < 1 and len(prompts) > 1 and drawn:
        splits[random.Random(seed).choice(drawn)] = "test"
    return [replace(prompt, split=split) for prompt, split in zip(prompts, splits, strict=True)]
