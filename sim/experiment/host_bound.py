"""The time bound of a machine whose host computes experts, too (docs/design.md, rule 7)."""

from collections.abc import Callable, Iterable
from fractions import Fraction

from policies.api import Host, Setup
from sim.experiment.floor import dense_floor_ns
from sim.prices.costs import Costs
from sim.workload.passes import Pass


def host_floor(passes: Iterable[Pass], setup: Setup, costs: Costs, nbytes: int) -> dict[str, int]:
    """``time_lower_bound`` where experts may be computed on the host, in ns: ``ns``, the longest of what it is made of.

    ``nbytes``: the fewest that ``passes`` copy on the GPU alone (``belady_bypass``). Say the host computes lookups
    whose sizes sum to h. Give each back as a copy that passes by the cache: that is a run on the GPU alone, so at least
    nbytes - h were copied, and the link was busy for these at its peak. The workers were busy for at least h times
    their cheapest time per byte, which is that of one token, alone. The dense parts run one after the other in any
    case; the GPU's experts are left out, since none of them need run there. A run takes each of the three at least, for
    its own h; the bound takes the h that suits it best.
    """
    assert setup.host is not None
    dense = 0
    dense = sum(dense_floor_ns(step, costs) for step in passes)
    link, host = best_split(nbytes, costs.link_floor_ns, cheapest(setup, setup.host))
    return {"ns": max(link, host, dense), "compute_ns": dense, "link_ns": link, "host_ns": host}


def cheapest(setup: Setup, host: Host) -> Fraction:
    """The least ns of all workers together per byte of what they compute: no expert takes less than on one token."""
    by_layer = (Fraction(host.expert_ns(layer, 1), nbytes) for layer, nbytes in enumerate(setup.expert_bytes))
    return min(by_layer) / host.workers


def best_split(nbytes: int, link_floor_ns: Callable[[int], int], ns_per_byte: Fraction) -> tuple[int, int]:
    """Link and host, in ns, where h of ``nbytes`` need no copy, for the whole h at which the longer is the shortest.

    One falls with h and the other rises, so it is where they meet, found by bisection.
    """

    def at(h: int) -> tuple[int, int]:
        return link_floor_ns(nbytes - h), h * ns_per_byte.numerator // ns_per_byte.denominator

    low, high = 0, nbytes  # the first h at which the host takes as long as the link
    while low < high:
        middle = (low + high) // 2
        link, host = at(middle)
        low, high = (low, middle) if host >= link else (middle + 1, high)
    return min((at(h) for h in (max(0, low - 1), low)), key=max)
