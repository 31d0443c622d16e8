"""A fixed set of popular experts."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from policies.api import History, Learned, Policy, Setup, Shapes, Step
from policies.parts.ranges import at_least
from traces.kit.errors import UserError


class Static(Policy):
    """Keep the experts that were demanded most often by the train requests; whatever else is demanded passes through.

    The resident set of github.com/HaoningJiang-space/backbone-first-moe, and EVAL's static (arXiv 2608.07911). The set
    is the most popular that fits in the budget less ``staging`` experts of the largest size, through which the others
    stream; with several GPUs each has one of its own. It fills on first demand, or with ``preload`` by prefetching from
    the first step on, the most popular first. Ties in popularity: lower expert number. O(1) per lookup. Lossless; needs
    no signals, but train requests.
    """

    name = "static"
    learns = True

    def __init__(self, setup: Setup, *, staging: int = 2, preload: bool = False) -> None:
        super().__init__(setup)
        self.staging_bytes = at_least(1, "staging", staging, "experts") * max(setup.expert_bytes)
        self.preload = preload
        self.kept: dict[int, None] | None = None  # by falling popularity

    def min_budget(self) -> int:
        return self.setup.gpus * self.staging_bytes

    @staticmethod
    def learn(shapes: Shapes, history: History, given: Mapping[str, Any]) -> Learned:
        return Learned({"popularity": history.popularity()})

    def recall(self, learned: Learned) -> None:
        popularity = learned.arrays["popularity"].tolist()
        if not any(popularity):
            raise UserError(
                f"policy={self.name}: the train requests demand no expert; allowed: a trace with a train split"
            )
        self.kept = dict.fromkeys(self.chosen(popularity))

    def chosen(self, popularity: Sequence[int]) -> Iterable[int]:
        """The experts to keep, by falling popularity."""
        left = [self.setup.pool_bytes() - self.staging_bytes] * self.setup.gpus
        for expert in sorted(range(len(popularity)), key=lambda x: -popularity[x]):
            size, gpu = self.setup.expert_bytes[self.setup.layer_of(expert)], self.setup.pool_of(expert)
            if size <= left[gpu]:
                yield expert
                left[gpu] -= size

    def decided(self) -> Mapping[str, Any]:
        layers = Counter(map(self.setup.layer_of, self.kept or ()))
        return {"kept_per_layer": [layers[layer] for layer in range(self.setup.n_layers)]}

    def on_step(self, step: Step) -> None:
        if self.kept is None:
            raise RuntimeError(f"{self.name} was not fitted")
        if self.preload:
            self.preload = False
            for i, expert in enumerate(self.kept):
                self.actions.prefetch(expert, -float(i))

    def keep(self, expert: int) -> bool:
        return self.kept is not None and expert in self.kept

    def victim(self, incoming: int, speculative: bool) -> int | None:
        return None  # there is always room for the set, and for one more once its predecessors are computed
