"""Belady's MIN as a cache that must admit."""

from __future__ import annotations

from policies.bounds.farthest import FarthestNextUse


class BeladyForced(FarthestNextUse):
    """Evict the expert whose next demand is the farthest away; every demand load is admitted and kept.

    Belady, IBM Systems Journal 5(2), 1966. A reference row, not a bound: bypassing admission, prefetching or dividing
    experts can copy less or finish sooner. Ties go to the larger expert number. O(log experts) per lookup.
    """

    name = "belady_forced"
