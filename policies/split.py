"""FreeToken: a layer's misses are shared by the link and the host."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal

from policies.api import LayerEvent, Routing, Setup, Step
from policies.parts.layers import Layers
from policies.parts.mixed import Mixed, as_prefill
from policies.parts.ranges import between
from traces.kit.errors import UserError

Backend = Literal["hybrid", "offload", "cpu", "auto"]
Rates = Literal["together", "alone"]
Prefill = Literal["layers", "demand", "split"]

WORTHWHILE = 2
"""So many times the link's rate is what a host must read for ``auto`` to have it compute."""


def fetches(misses: int, phi: Fraction) -> int:
    """How many of ``misses`` are fetched: floor(phi m), or one more where link or host is then done sooner."""

    def slower(f: int) -> Fraction:
        return max(f * (1 - phi), (misses - f) * phi)

    f = phi * misses // 1
    return min(misses, f if slower(f) <= slower(f + 1) else f + 1)


class Split(Layers):
    """A layer's misses are shared by link and host, so that both are done with them at once.

    FreeToken (arXiv 2608.16157), and its code. Of m misses floor(phi m) or one more are fetched and admitted, whichever
    makes max(f (1 - phi), (m - f) phi) the less (a tie: the fewer); the host computes the others, which are not
    admitted. With phi <= 1 / (m + 1) none is fetched, so that a cache that begins empty may stay so. Fetched are all
    that are on their way, then those demanded last (a tie: the lower number). ``phi`` is the link's share of what it
    and the host read; null: by their rates while both are busy, or with ``rates=alone`` link / host, as FreeToken takes
    it where it has measured no pair. ``offload``: phi = 1; ``cpu``: 0, so that decode admits nothing; ``auto``:
    ``hybrid`` where in every layer the host alone reads more than twice what the link does, else, or where the host has
    no price, ``offload``. One LRU over all layers. ``prefill=layers``: a prompt streams whole layers through two
    buffers that are taken from the cache, of whose order it changes nothing else. ``mixed``: whether a pass of prompts
    and output counts as the one or the other. O(m log m) per event, O(pinned) per
    victim; O(E) per layer of a prompt. Lossless; needs no signals.
    """

    name = "split"
    title = "FreeToken"
    of_mixed = frozenset({"mixed"})

    def __init__(
        self,
        setup: Setup,
        *,
        backend: Backend = "hybrid",
        phi: float | None = None,
        rates: Rates = "together",
        prefill: Prefill = "layers",
        mixed: Mixed = "prefill",
    ) -> None:
        super().__init__(setup)
        self.backend = backend if backend != "auto" else self._recommended()
        if phi is not None:
            if rates == "alone":
                why = "is how phi=null is chosen"
                raise UserError(f"policy.rates=alone: {why}; allowed: together with policy.phi={phi}")
            between("phi", phi, 0, 1, "the share of a layer's misses that is fetched")
            if self.backend != "hybrid":
                why = "is offload on this machine" if backend == "auto" else "fetches all or none"
                raise UserError(f"policy.phi={phi}: allowed: null with policy.backend={backend}, which {why}")
        self.rates, self.prefill, self.mixed = rates, prefill, mixed
        self.phi = [self._share(layer, phi) for layer in range(setup.n_layers)]
        self.fetched: list[dict[int, int]] = [{} for _ in self.phi]  # of so many misses of a layer, how many
        self.active = [-1] * (setup.n_layers * setup.n_experts)  # the last event that demanded it
        self.events = 0
        self.hosted: frozenset[int] = frozenset()  # of the event under way
        self.streaming = False  # whether this pass copies whole layers
        self.streamed: dict[int, None] = {}  # what has its slot in a buffer

    def uses(self, hook: str) -> bool:
        if hook == "place":
            return self.backend != "offload"
        return super().uses(hook) and (hook != "route" or self.prefill == "layers")

    def min_budget(self) -> int:
        return self.two_layers() if self.prefill == "layers" else super().min_budget()

    def decided(self) -> Mapping[str, Any]:
        shares = [round(float(phi), 4) for phi in self.phi]
        return {"backend": self.backend, "phi": shares if len(set(shares)) > 1 else shares[0]}

    def on_step(self, step: Step) -> None:
        self.streaming = as_prefill(step, self.mixed) and self.prefill == "layers"
        self.reach(-1)
        self.release(self.streamed)
        if self.streaming:
            self.copy_ahead(0)

    def route(self, event: LayerEvent) -> Routing | None:
        return Routing.whole(event, self.setup.experts_of(event.layer)) if self.streaming else None

    def place(self, event: LayerEvent) -> Sequence[int]:
        left: list[int] = []
        if not as_prefill(event, self.mixed) or self.prefill == "split":
            resident, active = self.view.resident, self.active
            misses = [x for x in event.demand if not self.view.complete(x)]
            on_their_way = sum(map(resident, misses))
            misses.sort(key=lambda x: (not resident(x), -active[x], x))
            if (fetched := self.fetched[event.layer].get(len(misses))) is None:
                fetched = self.fetched[event.layer][len(misses)] = fetches(len(misses), self.phi[event.layer])
            left = misses[max(on_their_way, fetched) :]
        self.hosted = frozenset(left)
        return left

    def on_gate(self, event: LayerEvent) -> None:
        if self.streaming:
            self.reach(event.layer)
            self.release(self.streamed)
            if event.layer + 1 < self.setup.n_layers:
                self.copy_ahead(event.layer + 1)
            return
        self.streamed.clear()  # a load that was being dropped is the cache's once it is demanded
        order = self.pools[0]
        for expert in event.demand:
            self.active[expert] = self.events
            if expert not in self.hosted:
                order[expert] = None
                order.move_to_end(expert)
        self.events += 1

    def on_slot(self, expert: int) -> None:
        super().on_slot(expert)
        if self.streaming:
            self.streamed[expert] = None

    def on_evict(self, expert: int) -> None:
        super().on_evict(expert)
        self.streamed.pop(expert, None)

    def _recommended(self) -> Backend:
        """What FreeToken's benchmark says of this machine."""
        host, layers = self.setup.host, range(self.setup.n_layers)
        if host is None:
            return "offload"
        return "hybrid" if all(cpu > WORTHWHILE * link for link, cpu in map(host.alone, layers)) else "offload"

    def _share(self, layer: int, phi: float | None) -> Fraction:
        host = self.setup.host
        if self.backend != "hybrid" or host is None:  # without a price for the host, hybrid is refused
            return Fraction(self.backend == "offload")
        if phi is not None:
            return Fraction(repr(phi))  # .3 is 3/10
        link, cpu = host.alone(layer) if self.rates == "alone" else host.together(layer)
        return min(Fraction(1), link / cpu) if self.rates == "alone" else link / (link + cpu)
