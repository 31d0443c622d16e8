"""Random cases of experts in several versions, and a policy that computes each in any of them; others may import it."""

from dataclasses import dataclass, replace

from hypothesis import strategies as st

from policies.api import LayerEvent, Routing, Setup
from tests.sim.machine.cases import FlatCosts
from tests.sim.machine.restless import Case, Lossy, cases


@dataclass(frozen=True)
class CostsByVersion(FlatCosts):
    """Prices of experts that differ by layer and version."""

    per_row: int = 3

    def expert_ns(self, layer: int, tokens: int) -> int:
        return (self.per_token + self.per_row * layer) * tokens


class AnyVersion(Lossy):
    """Computes what it likes in whatever version, and loads, drops and predicts items of all; ``pools``: one each."""

    def __init__(self, setup: Setup, *, by_layer: bool = False, pools: bool = False, eagerness: int = 2) -> None:
        super().__init__(setup, eagerness=eagerness)
        sizes, n = setup.expert_bytes, setup.n_layers
        largest = [max(sizes[i : i + n]) for i in range(0, len(sizes), n)]
        spare = (setup.budget - sum(largest)) // len(largest)
        self.of_versions = [size + spare for size in largest] if pools else None
        each = (setup.budget - sum(sizes)) // len(sizes)
        self.shares = [size + each for size in sizes] if by_layer and not pools else None

    def version_budgets(self) -> list[int] | None:
        return self.of_versions

    def any_expert(self) -> int:
        return self.random.randrange(len(self.setup.expert_bytes) * self.setup.n_experts)

    def rerouted(self, event: LayerEvent) -> Routing:
        routing, setup = super().rerouted(event), self.setup
        demand = [setup.item(x, self.random.randrange(len(setup.versions))) for x in routing.demand]
        low = sum(n for x, n in zip(demand, routing.tokens, strict=True) if setup.version_of(x))
        slots = sum(routing.tokens) + routing.slots
        return replace(routing, demand=demand, slots=slots, low_precision=low)

    def victim(self, incoming: int, speculative: bool) -> int | None:
        self.told.append(("victim", incoming, speculative))
        self.seldom()
        if speculative and (incoming + self.tag) % 3 == 0:
            return None
        setup = self.setup
        span = setup.n_all if self.of_versions else setup.n_experts if self.shares else len(self.view_of_all)
        first = incoming // span * span
        able = [x for x in range(first, first + span) if self.view.evictable(x)]
        return min(able, key=lambda x: (x * 7919 + setup.seed) % 101, default=None)

    @property
    def view_of_all(self) -> range:
        return range(len(self.setup.expert_bytes) * self.setup.n_experts)


@st.composite
def version_cases(draw: st.DrawFn) -> Case:
    """Cases whose experts are there in two or three versions, of any sizes, with room for one of each."""
    case = draw(cases())
    setup, names = case.setup, [f"low{i}" for i in range(draw(st.integers(1, 2)))]
    sizes = st.lists(st.integers(4, 30), min_size=setup.n_layers, max_size=setup.n_layers)
    others = {name: tuple(draw(sizes)) for name in names}
    costs = CostsByVersion(*vars(case.costs).values(), draw(st.sampled_from([0, 1, 7])))
    in_all = replace(setup, costs=costs, dtype="own", others=others).with_versions(names)
    budget = max(sum(in_all.expert_bytes), setup.budget)
    return replace(case, setup=replace(in_all, budget=budget), costs=costs)
