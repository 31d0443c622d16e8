"""Which prompts are for training and which for testing: drawn per source, with a seed."""

from __future__ import annotations

import random
from array import array
from collections.abc import Mapping
from itertools import islice

SPLITS = ("train", "test")
TRAIN, TEST, OPEN = 0, 1, 2


def draw_splits(splits: bytearray, undecided: Mapping[str, array[int]], share: float, seed: int) -> None:
    """Replace every OPEN entry of `splits` [prompts] by TRAIN or TEST, in place.

    `undecided`: per source the indices of its OPEN entries, ascending; they are shuffled. Of n of them
    round(share * n) are for training. Where rounding, source by source, would leave no test prompt at all,
    one of the OPEN ones, drawn at random, is for testing.
    """
    trains = {source: round(share * len(indices)) for source, indices in undecided.items()}
    total = sum(map(len, undecided.values()))
    lone: int | None = None
    if total == sum(trains.values()) and total and TEST not in splits and share < 1 and len(splits) > 1:
        place = random.Random(seed).choice(range(total))
        lone = next(islice((i for i, split in enumerate(splits) if split == OPEN), place, None))
    for source, indices in undecided.items():
        random.Random(f"{seed} {source}").shuffle(indices)
        for place, index in enumerate(indices):
            splits[index] = TRAIN if place < trains[source] else TEST
    if lone is not None:
        splits[lone] = TEST
