"""A perfect predictor of one layer ahead, on a cache that knows the future."""

from policies.api import LayerEvent, Setup
from policies.bounds.belady_forced import BeladyForced


class PerfectNextLayer(BeladyForced):
    """When a gate has run, prefetch what the next gate will demand, from the last layer on into the next step.

    Victims by farthest next use; a speculative load displaces only what is used later than itself, so nothing is
    copied in vain unless demand itself needs the room. A reference row, not a bound: a deeper look ahead may finish
    sooner. O(log experts) per lookup.
    """

    name = "perfect_next_layer"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.coming: frozenset[int] = frozenset()

    def on_gate(self, event: LayerEvent) -> None:
        super().on_gate(event)
        starts, then = self.future.starts, self.now + 1
        coming = []
        if then < self.future.n_events:
            coming = self.future.experts[starts[then] : starts[then + 1]].tolist()
            self.actions.expect(coming)
        self.coming = frozenset(coming)
        for x in coming:
            self.actions.prefetch(x, 0.0)

    def on_slot(self, expert: int) -> None:
        if expert in self.coming:
            self.order.add(expert)

    def on_evict(self, expert: int) -> None:
        super().on_evict(expert)
        if expert in self.coming:  # demand needed the room; fetch it again when there is some
            self.actions.prefetch(expert, 0.0)

    def victim(self, incoming: int, speculative: bool) -> int | None:
        victim = super().victim(incoming, speculative)
        if victim is not None and speculative and self.next_use[victim] <= self.next_use[incoming]:
            return None
        return victim
