"""HOBBIT: mixed precision by token, prefetching by layer, a cache by sequence."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from policies.api import History, LayerEvent, Policy, Routing, Setup, Signal, Step
from policies.hobbit.fit import tuned
from policies.hobbit.precision import HIGH, LOW, Thresholds, least_by_expert, of_one_token, unimportance
from policies.hobbit.uses import TERMS, Uses, last_rows, read_weights
from policies.parts.foreseen import by_tokens
from policies.parts.pools import Reals, Scores
from policies.parts.ranges import between

EQUAL = "0.25/0.25/0.25/0.25"
Anew = Literal["each", "alone"]


class Cached(Policy):
    """What both of them have: the cache's score, and predictions that go further only where all is there."""

    signals = frozenset({Signal.GATE_AHEAD})
    ahead = "depth"
    of_mixed = frozenset({"anew"})
    unlearned = f"policy.weights={EQUAL}"
    without: ClassVar[Mapping[Signal, str]] = {Signal.GATE_AHEAD: "policy.depth=0"}

    def __init__(self, setup: Setup, depth: int, weights: str, anew: Anew) -> None:
        super().__init__(setup)
        self.depth = between("depth", depth, 0, max(1, setup.n_layers - 1), "layers ahead; 0: none")
        self.weights = read_weights(weights)
        self.by_train = self.weights is None
        self.records = Uses(setup.n_layers, setup.n_experts)
        versions = max(1, len(setup.versions))
        spans = [range(v * setup.n_all, (v + 1) * setup.n_all) for v in range(versions)]
        self.pools = [Scores(span, self._worth) for span in spans]
        self.anew = anew
        self.seen: set[int] = set()  # requests
        self.rows, self.layer = 1, 0
        self.shielded: dict[int, frozenset[int]] = {}  # what is predicted, by layer
        self.issued: dict[int, None] = {}  # speculative loads, in the order of asking

    # -- declarations -------------------------------------------------------------------------------------------

    def needs(self) -> frozenset[Signal]:
        return self.signals if self.depth else self.signals - {Signal.GATE_AHEAD}

    def wants_history(self) -> bool:
        return self.by_train

    def fit(self, history: History) -> None:
        # Not learned once for all budgets: what misses the least is asked of caches as large as the budget makes them.
        self.weights = tuned(history, self.setup, self.thresholds(), self.pool_bytes())

    def thresholds(self) -> Thresholds | None:
        """In which precision a missing expert comes; None: always in the model's own."""
        return None

    def pool_bytes(self) -> list[int]:
        """What each version may hold."""
        return [self.setup.budget]

    def decided(self) -> Mapping[str, Any]:
        weights = {f"w_{term}": weight for term, weight in zip(TERMS, self._weights(), strict=True)}
        return {**weights, "tuned": self.by_train}

    # -- hooks --------------------------------------------------------------------------------------------------

    def on_step(self, step: Step) -> None:
        self._forget(self.setup.n_layers)
        self.records.tokens += self.rows if self.seen else 0
        if not self.seen.issuperset(step.requests):  # one that was preempted is no new one
            if self.anew == "each" or self.seen.isdisjoint(step.requests):
                self.records.begin()
            self.seen.update(step.requests)
        self.rows = step.rows

    def on_gate(self, event: LayerEvent) -> None:
        setup = self.setup
        self.layer = event.layer
        self._forget(event.layer)
        self._note(event)
        for pool in self.pools:
            pool.stale = True
        for distance in range(1, min(self.depth, setup.n_layers - 1 - event.layer) + 1):
            if not self._foresee(event, distance):
                break

    def on_slot(self, expert: int) -> None:
        self.pools[self.setup.version_of(expert)].add(expert)

    def on_complete(self, expert: int) -> None:
        self.issued.pop(expert, None)

    def on_evict(self, expert: int) -> None:
        self.pools[self.setup.version_of(expert)].discard(expert)
        self.issued.pop(expert, None)

    def victim(self, incoming: int, speculative: bool) -> int | None:
        pool, evictable, shielded = self.pools[self.setup.version_of(incoming)], self.view.evictable, self.shielded
        found = pool.lowest(lambda x: evictable(x) and not any(x in items for items in shielded.values()))
        return found if speculative or found is not None else pool.lowest(evictable)

    # -- inside -------------------------------------------------------------------------------------------------

    def _weights(self) -> tuple[float, ...]:
        if self.weights is None:
            raise RuntimeError(f"{self.name} was not fitted")
        return self.weights

    def _worth(self, members: slice) -> Reals:
        return self.records.worth(self._weights(), self.layer, self.rows)

    def _note(self, event: LayerEvent) -> None:
        setup, first = self.setup, event.layer * self.setup.n_experts
        used = [(x, n) for x, n in zip(event.demand, event.tokens, strict=True) if n]
        experts = [setup.expert_of(x) for x, _ in used]
        rows = [1] * len(used)
        if self.rows > 1:
            last = last_rows(event.signals.expert_ids(), setup.n_experts)
            rows = [int(last[x - first]) for x in experts]
        self.records.note(experts, rows, [n for _, n in used], [x < setup.n_all for x, _ in used])

    def _foresee(self, event: LayerEvent, distance: int) -> bool:
        """Shield what is predicted of a later layer, and load what is missing of it; whether nothing is."""
        layer, setup = event.layer + distance, self.setup
        ids = event.signals.gate_ahead(distance)
        named = by_tokens(ids, layer, setup.n_experts)
        items = self.ready_for(named, ids)
        self.actions.expect(named)
        self.shielded[layer] = frozenset(items)
        missing = [item for item in items if not self.view.resident(item)]
        for item in missing:
            if self.actions.prefetch(item, float(-distance)):
                self.issued[item] = None
        return not missing

    def ready_for(self, named: list[int], ids: Any) -> list[int]:
        """The items to have ready of the experts that the gate of a later layer names in ``ids`` [rows, K]."""
        return named

    def _forget(self, layer: int) -> None:
        """Predictions up to ``layer`` have come true or not: what is neither complete nor demanded is dropped."""
        for passed in [it for it in self.shielded if it <= layer]:
            del self.shielded[passed]
        for item in [x for x in self.issued if self.setup.layer_of(x) <= layer]:
            self.issued.pop(item, None)
            self.actions.cancel(item)


class HobbitLossless(Cached):
    """HOBBIT without its lower precision: the cache by the four-term score, and the layer-ahead rule.

    arXiv 2411.01433, sections 3.3 and 3.4, "Float16" in its figure 17; see policies/hobbit/README.md. Of the experts
    that are there the one of the least w_lru R/T + w_lfu F/T + w_lhu H/T + w_fld (1 - d/L) goes, H being F here; ties:
    the lower number. What the next ``depth`` gates name is shielded, and loaded up to the first layer of which
    something is missing. ``anew``: its records begin again with each request, or with one that is alone in its first
    pass. O(rows x K + L E) per event, O(L E) per victim. Lossless; needs gate_ahead, and train requests unless
    ``weights`` are given.
    """

    name = "hobbit_lossless"
    title = "HOBBIT, one precision"

    def __init__(self, setup: Setup, *, depth: int = 1, weights: str = "tuned", anew: Anew = "each") -> None:
        super().__init__(setup, depth, weights, anew)


class Hobbit(Cached):
    """A missing expert comes in low precision where its token gives it little, and not at all where next to nothing.

    arXiv 2411.01433, section 3. With s the normalised weights that are ranked before an expert, a missing one is loaded
    as it is for s <= T1 of the ``thresholds``, in ``low`` for s <= T2, else skipped; of several tokens the one that
    needs it most decides for all. Each precision has a pool, ``low_share`` of the budget for the lower, in which the
    expert of the least w_lru R/T + w_lfu F/T + w_lhu H/T + w_fld (1 - d/L) goes: its last use, uses, uses in high
    precision by the T tokens of the sequence, and d how many layers ahead it is; ties: the lower number. ``weights``
    are tuned on the first passes of the train requests, by the bytes that are missed. What the next ``depth`` gates
    name is shielded, and loaded up to the first layer of which something is missing. ``anew``: its records begin again
    with each request, or with one that is alone in its first pass. O(rows x K + L E) per event, O(L E) per victim.
    Lossy; needs expert_weights, gate_ahead unless ``depth`` is 0, and train requests.
    """

    name = "hobbit"
    title = "HOBBIT"
    lossless = False
    signals = frozenset({Signal.WEIGHTS, Signal.GATE_AHEAD})
    versions = ("low",)
    without: ClassVar[Mapping[Signal, str]] = {**Cached.without, Signal.WEIGHTS: "policy=hobbit_lossless"}

    def __init__(
        self,
        setup: Setup,
        *,
        low: str | None = "int4",
        thresholds: str = "0.6/0.9",
        low_share: float = 0.05,
        depth: int = 1,
        weights: str = "tuned",
        anew: Anew = "each",
    ) -> None:
        self.by_token = Thresholds.read(thresholds, lower=low is not None)
        self.low_share = between("low_share", low_share, 0, 1, "of the budget, for experts in low precision")
        super().__init__(setup, depth, weights, anew)
        self.by_rank: list[float] = []  # unimportance, the mean over the event's tokens

    def thresholds(self) -> Thresholds:
        return self.by_token

    def _largest(self) -> list[int]:
        sizes, n = self.setup.expert_bytes, self.setup.n_layers
        return [max(sizes[i : i + n]) for i in range(0, len(sizes), n)]

    def min_budget(self) -> int:
        return sum(self._largest()) if self.by_token.lower else super().min_budget()

    def pool_bytes(self) -> list[int]:
        if not self.by_token.lower:
            return [self.setup.budget]
        high, low = self._largest()
        share = min(max(low, int(self.low_share * self.setup.budget)), self.setup.budget - high)
        return [self.setup.budget - share, share]

    def version_budgets(self) -> Sequence[int] | None:
        return self.pool_bytes() if self.by_token.lower else None

    def decided(self) -> Mapping[str, Any]:
        slots = [pool // size for pool, size in zip(self.pool_bytes(), self._largest(), strict=True)]
        return {**super().decided(), "slots": slots}

    def route(self, event: LayerEvent) -> Routing:
        n_all, first = self.setup.n_all, event.layer * self.setup.n_experts
        ids, weights = event.signals.expert_ids(), event.signals.expert_weights()
        least = self._judged(ids, weights)
        demand, tokens, skipped = [], [], []
        for x, n in zip(event.demand, event.tokens, strict=True):
            item = self._item(x, float(least[x - first]))
            if item is None:
                skipped.append(x - first)
            else:
                demand.append(item)
                tokens.append(n)
        gone, mass = np.isin(ids, skipped), np.where(ids < self.setup.n_experts, weights, 0).astype(np.float64)
        return Routing(
            demand,
            tokens,
            kept_mass=float(mass[~gone].sum()),
            gate_mass=float(mass.sum()),
            slots=sum(event.tokens),
            skipped=sum(event.tokens) - sum(tokens),
            low_precision=sum(n for x, n in zip(demand, tokens, strict=True) if x >= n_all),
            chosen=self._chosen(event, ids, gone) if skipped else None,
        )

    def _judged(self, ids: Any, weights: Any) -> Any:
        """How unimportant each expert of the layer is, by its index."""
        n = self.setup.n_experts
        if len(ids) == 1 and ids[0, -1] < n:
            self.by_rank = of_one_token(weights[0].tolist())
            return dict(zip(ids[0].tolist(), self.by_rank, strict=True))
        unimportant = unimportance(weights, ids < n)
        self.by_rank = unimportant.mean(axis=0).tolist()
        return least_by_expert(ids, unimportant, n)

    def _chosen(self, event: LayerEvent, ids: Any, gone: Any) -> Any:
        """Who computes which token: as the gate chose, and with its weights, but for what is skipped."""
        if event.masked_weights is None:
            return None
        n = self.setup.n_experts
        chosen = np.minimum(ids, n).astype(np.int64)
        weights = np.where(gone, 0, event.masked_weights(chosen, np.ones(n, np.bool_))).astype(np.float32)
        return np.where(gone, n, chosen), weights

    def _item(self, expert: int, unimportant: float) -> int | None:
        """In which version an expert is computed; None: it is skipped. What is there costs nothing, so it is used."""
        wanted, there = self.by_token.missing(unimportant), self.view.resident
        if wanted == HIGH or there(expert):
            return expert
        low = self.setup.item(expert, 1) if self.by_token.lower else None
        return low if low is not None and (wanted == LOW or there(low)) else None

    def ready_for(self, named: list[int], ids: Any) -> list[int]:
        """Each in the version that its best rank would give it here: a later gate's weights are not recorded."""
        n = self.setup.n_experts
        if len(ids) == 1:
            least: Any = dict(zip(ids[0].tolist(), self.by_rank, strict=True))
        else:
            least = least_by_expert(ids, np.broadcast_to(self.by_rank, ids.shape), n)
        return [item for x in named if (item := self._item(x, float(least[x % n]))) is not None]
