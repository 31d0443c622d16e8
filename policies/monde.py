"""MoNDE: the hot experts to the GPU, the cold ones to compute within the memory device."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import ceil
from typing import Any, Literal

from policies.api import LayerEvent, Schedule, Setup
from policies.parts.pools import Pooled, Queue
from policies.parts.ranges import between
from policies.parts.sides import Sides, hottest_first, lookups
from traces.kit.errors import UserError


class Monde(Pooled[Queue]):
    """The experts of most tokens are fetched to the GPU, the others computed where they lie, both at once.

    MoNDE (arXiv 2405.18832): near-data compute in a memory device, which here is the host with other prices. Its rule
    is that of a re-implementation, Akash-N-Pai/DynaNDE-Simulator: ``rule=ratio`` gives the GPU
    ceil(share x active experts) of a layer, and keeps none. ``share=null`` is the link's part of what link and device
    read while both are busy, their overheads within (by bandwidths alone 32 / (32 + 512)); at any share above 0 that
    is at least one expert, and 0 is near-data compute alone. ``rule=balanced``: the number by which the later side ends
    as early as can be (:class:`~policies.parts.sides.Sides`), of equals the least; what is fetched stays, evicted by
    LRU; what is there costs no load and goes first. Ties in tokens: the lower number. O(n log n) for n active experts,
    ``balanced`` O(n log^2 n); O(pinned) per victim. Lossless; needs no signals.
    """

    name = "monde"
    title = "MoNDE"

    def __init__(
        self, setup: Setup, *, rule: Literal["ratio", "balanced"] = "ratio", share: float | None = None
    ) -> None:
        super().__init__(setup, "global", Queue)
        self.rule, self.sides = rule, Sides(setup, None)
        self.shares: list[Fraction] = []
        """Of each layer's active experts, the GPU's."""
        self.hosted: frozenset[int] = frozenset()  # of the event
        if share is not None:
            if rule == "balanced":
                raise UserError(f"policy.share={share}: allowed: null (rule=balanced weighs every number of experts)")
            # As it was written: in binary, a tenth of ten experts is more than one.
            self.shares = [Fraction(str(between("share", share, 0, 1, "of the active experts")))] * setup.n_layers
        elif rule == "ratio" and setup.host is not None:
            rates = map(setup.host.together, range(setup.n_layers))
            self.shares = [link / (link + device) for link, device in rates]

    def decided(self) -> Mapping[str, Any]:
        return {"gpu_share_per_layer": [round(float(it), 6) for it in self.shares]} if self.shares else {}

    def keep(self, expert: int) -> bool:
        return self.rule == "balanced"

    def place(self, event: LayerEvent) -> Sequence[int]:
        members = lookups(event, self.view)
        if self.rule == "ratio":
            on_gpu = ceil(self.shares[event.layer] * len(members))
        else:
            members.sort(key=lambda it: not it.complete)
            on_gpu = self.sides.best_prefix(event.layer, (), members)
        hosted = sorted(members[on_gpu:], key=lambda it: it.hotness)
        self.hosted = frozenset(it.expert for it in hosted)
        return [it.expert for it in hosted]

    def on_gate(self, event: LayerEvent) -> None:
        order = self.pools[0]
        for expert in event.demand:
            if expert in order or expert not in self.hosted:  # what the host computes without a copy here gets no slot
                order[expert] = None
                order.move_to_end(expert)

    def schedule(self, event: LayerEvent) -> Schedule:
        return hottest_first(event, self.hosted, self.view)
