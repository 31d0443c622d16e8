"""Which variants are tried under which seeds, where all of them under all would be the same law thousands of times."""

from collections import Counter
from collections.abc import Iterator, Sequence

from sim.check.variants import Variant


def in_turn(variants: Sequence[Variant], seeds: int, each: int = 1) -> Iterator[tuple[Variant, int]]:
    """Each policy's defaults under all of the seeds, its other variants under ``each`` of them, one after the other.

    A seed has prices, a budget, chunks, lanes and layers of its own: every policy meets all of them, with most of its
    parameters changed in some. Of two seeds of a variant one is even and one odd: a slow link and a fast one. ``python
    -m sim check`` tries each variant under every seed.
    """
    counted = Counter[str]()
    for variant in variants:
        start, step = counted[variant.name], seeds // 2 | 1
        counted[variant.name] += 1
        chosen = {(start + i * step) % seeds for i in range(each)} if start else range(seeds)
        yield from ((variant, seed) for seed in sorted(chosen))
