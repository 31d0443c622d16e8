"""Which variants are tried by which law, under which seeds, where all of all would be the same law thousands of times.

``python -m sim check`` tries each variant by every law under every seed.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from sim.check.variants import Variant


def in_turn(variants: Sequence[Variant], seeds: int) -> Iterator[tuple[Variant, int]]:
    """Each policy's defaults under half of the seeds, the next policy's under the others; a policy's other variants
    under one of the seeds each, one after the other.

    A seed has prices, a budget, chunks, lanes and layers of its own. In either half some seeds are even and some odd:
    a slow link and a fast one.
    """
    for (variant, number), policy in zip(_numbered(variants), _policies(variants), strict=True):
        chosen = [number % seeds] if number else [s for s in range(seeds) if (s + s // 2 + policy) % 2 == 0]
        yield from ((variant, seed) for seed in chosen)


def some(variants: Sequence[Variant], each: int, first: int) -> list[Variant]:
    """Each policy's defaults, and of its other variants every ``each``-th, from the ``first`` on (0 is the first)."""
    return [variant for variant, number in _numbered(variants) if number == 0 or number % each == (first + 1) % each]


def _numbered(variants: Sequence[Variant]) -> Iterator[tuple[Variant, int]]:
    """Each with its number among its policy's; 0 has the defaults."""
    counted = Counter[str]()
    for variant in variants:
        yield variant, counted[variant.name]
        counted[variant.name] += 1


def _policies(variants: Sequence[Variant]) -> list[int]:
    """Of each the number of its policy."""
    names = list(dict.fromkeys(variant.name for variant in variants))
    return [names.index(variant.name) for variant in variants]
