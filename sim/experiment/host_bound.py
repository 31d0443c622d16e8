"""The time bound of a machine whose host computes experts, too (docs/design.md, rule 7)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from policies.api import Host, Setup
from policies.bounds.windows import longest_cut
from sim.prices.costs import Costs
from sim.workload.passes import Pass
from sim.workload.pricing import dense_of, expert_prices


@dataclass(frozen=True, slots=True)
class Work:
    """What passes want of the GPU, in ns."""

    dense_ns: int  # what is not experts
    compute_ns: int  # with all experts
    spared: Fraction = Fraction(0)  # the most of it that a byte of what the host computes spares, at any lookup


@dataclass(frozen=True, slots=True)
class Split:
    """How long GPU, link and host take at least, in ns."""

    compute_ns: int
    link_ns: int
    host_ns: int

    @property
    def ns(self) -> int:
        return max(self.compute_ns, self.link_ns, self.host_ns)


@dataclass(frozen=True, slots=True)
class HostFloor:
    """``time_lower_bound`` where experts may be computed on the host."""

    whole: Split  # of the whole run, at the split that suits it best
    windows_ns: int  # window of passes by window, each at its own

    @property
    def ns(self) -> int:
        return max(self.whole.ns, self.windows_ns)


class HostBound:
    """The time bound of some passes where experts may be computed on the host.

    Say the host computes lookups whose sizes sum to h, of those in the run or in a window of its passes. Give each back
    as a copy that passes by the cache: that is a schedule of the GPU alone, so at least nbytes - h were copied
    (``nbytes``: the fewest on the GPU alone), and the link was busy for these at its peak. The workers were busy for at
    least h times their cheapest time per byte, which is that of one token, alone. The GPU computed the dense parts, and
    every expert but those: all compute less h times what a byte of any lookup spares at most. Each takes no longer than
    the run or window, for its h; the bound takes the h that suits it best, which may be more than nbytes, as the host
    may compute what lies on the GPU.

    Why it holds in a window, for the very nbytes of :func:`policies.bounds.windows.window_bytes`: let S(t) be the bytes
    that are handed over and have their slot when gate t has run, and keep it until a gate of this window demands them
    for the GPU. S fits in the capacity, and may be anything at the window's first gate. What event t has the GPU
    compute and is not in S(t), and what comes into S after a gate that did not demand it, is handed over between that
    gate and the next, and complete before the window ends, as compute within the window needs it. (What the host serves
    needs no copy; it is in no S for that.) The cost of a sequence S counts these copies, and for each lookup on the
    host at most its size: as missing from S(t), after which S(t + 1) may have it for nothing. So copies and h together
    are no less than the least cost, which is nbytes. What the host computes for an event begins at its gate and ends
    before its layer does, so within the window, as all compute of its passes. Each window has an h of its own, and the
    times add up, as a pass begins when the one before has ended.
    """

    def __init__(self, setup: Setup, costs: Costs) -> None:
        assert setup.host is not None
        self.setup, self.costs, self.per_byte = setup, costs, cheapest(setup, setup.host)
        self.passes: list[Work] = []

    def add(self, step: Pass, compute_ns: int) -> None:
        """The next pass; ``compute_ns``: all of its compute on the GPU alone."""
        longest = dict[int, int]()  # by bytes, the lookup that spares the most
        its = dense_of(step, self.costs)
        dense = its.lead_ns + its.head_ns + len(step.tokens) * (its.layer_ns + its.software_ns)
        for layer, (tokens, nbytes) in enumerate(zip(step.tokens, self.setup.expert_bytes, strict=True)):
            if tokens:
                ns = max(expert_prices(step, layer, self.costs))
                longest[nbytes] = max(ns, longest.get(nbytes, 0))
        spared = max((Fraction(ns, nbytes) for nbytes, ns in longest.items()), default=Fraction(0))
        self.passes.append(Work(dense, compute_ns, spared))

    def floor(self, nbytes: int, windows: Sequence[Sequence[tuple[int, int]]]) -> HostFloor:
        """``nbytes``: the fewest that the passes copy on the GPU alone (``belady_bypass``); ``windows``: those within
        each window, as in :func:`policies.bounds.windows.longest_cut`."""
        whole = self._split(0, len(self.passes), nbytes)
        return HostFloor(whole, longest_cut(windows, lambda first, end, within: self._split(first, end, within).ns))

    def _split(self, first: int, end: int, nbytes: int) -> Split:
        works = self.passes[first:end]
        work = Work(
            sum([it.dense_ns for it in works]),
            sum([it.compute_ns for it in works]),
            max((it.spared for it in works), default=Fraction(0)),
        )
        return best_split(nbytes, work, self.costs.link_floor_ns, self.per_byte)


def cheapest(setup: Setup, host: Host) -> Fraction:
    """The least ns of all workers together per byte of what they compute: no expert takes less than on one token."""
    by_layer = (Fraction(host.expert_ns(layer, 1), nbytes) for layer, nbytes in enumerate(setup.expert_bytes))
    return min(by_layer) / host.workers


def best_split(nbytes: int, work: Work, link_floor_ns: Callable[[int], int], per_byte: Fraction) -> Split:
    """GPU, link and host where the host computes h bytes, for the whole h at which the longest is the shortest.

    Two fall with h and the third rises, so it is where they meet, found by bisection.
    """
    (spare, of), (ns, per) = work.spared.as_integer_ratio(), per_byte.as_integer_ratio()
    dense_ns, all_ns = work.dense_ns, work.compute_ns

    def at(h: int) -> Split:
        return Split(max(dense_ns, all_ns - spare * h // of), link_floor_ns(max(0, nbytes - h)), ns * h // per)

    low, high = 0, max(nbytes, -((dense_ns - all_ns) * of // spare) if spare else 0)  # neither falls further
    while low < high:  # the first h at which the host takes as long as the others
        h = (low + high) // 2
        host_ns = ns * h // per
        shorter = max(dense_ns, all_ns - spare * h // of) > host_ns or link_floor_ns(max(0, nbytes - h)) > host_ns
        low, high = (h + 1, high) if shorter else (low, h)
    return min((at(h) for h in (max(0, low - 1), low)), key=lambda split: split.ns)
