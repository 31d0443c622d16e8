"""Policies that exist only to try the machines, and random cases to try them on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import compress
from random import Random

from hypothesis import settings
from hypothesis import strategies as st

from policies.api import LayerEvent, Policy, Routing, Schedule, Setup, Step
from sim.workload.passes import Pass
from tests.sim.machine.cases import FlatCosts, FlatHost, make_pass, make_setup

EXAMPLES = settings(max_examples=30)


class Told(Policy):
    """Writes down each fact with what the view shows at that moment."""

    name = "told"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.told: list[object] = []

    def note(self, what: str, *facts: object) -> None:
        view = self.view
        experts = range(len(self.setup.expert_bytes) * self.setup.n_experts)
        resident, done = list(map(view.resident, experts)), list(map(view.chunks_done, experts))
        assert list(map(view.complete, experts)) == list(map(self.setup.chunks.__eq__, done))
        assert view.slots().tobytes() == bytes(resident)
        assert view.residents() == list(compress(experts, resident))
        seen = resident, done, list(map(view.evictable, experts)), list(map(view.loading, experts))
        self.told.append((what, facts, view.free_bytes(), seen))

    def on_step(self, step: Step) -> None:
        self.note("step", step.number, step.prefill, step.rows, tuple(step.requests), tuple(step.counts))

    def on_gate(self, event: LayerEvent) -> None:
        self.note("gate", *self.about(event))

    @staticmethod
    def about(event: LayerEvent) -> tuple[object, ...]:
        seen = event.demand, event.tokens, event.requests, event.counts
        return event.layer, event.prefill, *map(tuple, seen)

    def on_prediction(self, tag: int) -> None:
        self.note("prediction", tag)

    def on_slot(self, expert: int) -> None:
        self.note("slot", expert)

    def on_complete(self, expert: int) -> None:
        self.note("complete", expert)

    def on_evict(self, expert: int) -> None:
        self.note("evict", expert)

    def victim(self, incoming: int, speculative: bool) -> int | None:
        setup = self.setup
        layer = range(setup.n_layers * setup.n_experts)
        if self.layer_budgets() is not None:
            first = setup.layer_of(incoming) * setup.n_experts
            layer = range(first, first + setup.n_experts)
        able = [x for x in layer if self.view.evictable(x)]
        return min(able, key=lambda x: (x * 7919 + setup.seed) % 101, default=None)


class Bypass(Told):
    """On demand, and nothing is kept."""

    def keep(self, expert: int) -> bool:
        return False


class Restless(Told):
    """Does all that a policy may do, at random; what it does follows from a seed and from what it was told."""

    def __init__(self, setup: Setup, *, by_layer: bool = False, own_bytes: int = 0, eagerness: int = 2) -> None:
        super().__init__(setup)
        self.shares = setup.layer_budgets(setup.budget - own_bytes) if by_layer else None
        self.own_bytes, self.eagerness = own_bytes, eagerness
        self.random = Random(setup.seed)
        self.tag = 0

    def gpu_bytes(self) -> int:
        return self.own_bytes

    def layer_budgets(self) -> list[int] | None:
        return self.shares

    def any_expert(self) -> int:
        return self.random.randrange(self.setup.n_layers * self.setup.n_experts)

    def stir(self, actions: int) -> None:
        for _ in range(actions):
            chance, x = self.random.random(), self.any_expert()
            if chance < 0.6:
                self.told.append(self.actions.prefetch(x, self.random.randrange(4)))
            elif chance < 0.7:
                self.told.append(self.actions.cancel(x))
            elif chance < 0.9:
                self.told.append(self.actions.evict(x))
            else:
                self.actions.expect([x, self.any_expert()])

    def ask(self, may_block: bool) -> None:
        while self.random.random() < 0.3:
            self.tag += 1
            latency = self.random.choice([0, 1, 5, 20, 100])
            self.actions.predict(self.tag, latency, may_block and self.random.random() < 0.4)

    def on_step(self, step: Step) -> None:
        super().on_step(step)
        self.stir(self.eagerness)
        self.ask(may_block=True)

    def on_gate(self, event: LayerEvent) -> None:
        super().on_gate(event)
        self.stir(self.eagerness)
        self.ask(may_block=True)

    def on_prediction(self, tag: int) -> None:
        super().on_prediction(tag)
        self.stir(self.eagerness)
        self.ask(may_block=False)

    def seldom(self) -> None:
        """Few enough that loads which cost no time do not call forth one another for ever."""
        if self.random.random() < 0.2:
            self.stir(1)
            self.ask(may_block=False)

    def on_slot(self, expert: int) -> None:
        super().on_slot(expert)
        self.seldom()

    def on_complete(self, expert: int) -> None:
        super().on_complete(expert)
        self.seldom()

    def on_evict(self, expert: int) -> None:
        super().on_evict(expert)
        self.seldom()

    def keep(self, expert: int) -> bool:
        self.note("keep", expert)
        self.seldom()
        return self.random.random() < 0.8

    def victim(self, incoming: int, speculative: bool) -> int | None:
        self.told.append(("victim", incoming, speculative))
        self.seldom()
        if speculative and (incoming + self.tag) % 3 == 0:
            return None
        return super().victim(incoming, speculative)


class Unruly(Restless):
    """Also adds experts to what the gate chose, and computes and copies in an order of its own."""

    def route(self, event: LayerEvent) -> Routing | None:
        self.note("route", *self.about(event))
        self.stir(self.eagerness)
        self.ask(may_block=True)
        return self.rerouted(event) if self.random.random() < 0.7 else None

    def rerouted(self, event: LayerEvent) -> Routing:
        demand, tokens = list(event.demand), list(event.tokens)
        for x in self.some_of(event.layer):
            if x not in demand:
                place = self.random.randint(0, len(demand))
                demand.insert(place, x)
                tokens.insert(place, 0)
        return Routing(demand, tokens)

    def some_of(self, layer: int) -> list[int]:
        n = self.setup.n_experts
        return self.random.sample(range(layer * n, layer * n + n), self.random.randint(0, n))

    def schedule(self, event: LayerEvent) -> Schedule | None:
        self.note("schedule", *self.about(event))
        self.stir(self.eagerness)
        self.ask(may_block=True)
        mine = self.on_gpu(event)
        compute = self.shuffled(mine)
        copy = self.shuffled(x for x in mine if not self.view.complete(x))
        ahead = self.random.choice([None, 0, 0, 1, 2, 5])
        return self.random.choice(
            [None, Schedule(compute, copy, ahead), Schedule(compute, None, ahead), Schedule(None, copy, None)]
        )

    def on_gpu(self, event: LayerEvent) -> Sequence[int]:
        return event.demand

    def shuffled(self, experts: Iterable[int]) -> list[int]:
        order = list(experts)
        self.random.shuffle(order)
        return order


class Placing(Unruly):
    """Also has some of what has tokens computed by the host, in an order of its own; ``last``: after the GPU."""

    def __init__(self, setup: Setup, *, by_layer: bool = False, eagerness: int = 2, last: bool = False) -> None:
        super().__init__(setup, by_layer=by_layer, eagerness=eagerness)
        self.last = last
        self.hosted: list[int] = []

    def serial(self) -> bool:
        return self.last

    def place(self, event: LayerEvent) -> Sequence[int]:
        self.note("place", *self.about(event))
        self.stir(self.eagerness)
        self.ask(may_block=True)
        able = self.able(event)
        most = self.random.choice([0, 1, len(able)])
        self.hosted = self.random.sample(able, self.random.randint(0, min(most, len(able))))
        return self.hosted

    def able(self, event: LayerEvent) -> list[int]:
        return [x for x, n in zip(event.demand, event.tokens, strict=True) if n]

    def on_gpu(self, event: LayerEvent) -> Sequence[int]:
        return [x for x in event.demand if x not in self.hosted]


class Lossy(Unruly):
    """Computes what it likes in the place of what the gate chose."""

    lossless = False

    def rerouted(self, event: LayerEvent) -> Routing:
        demand, rows, slots = self.some_of(event.layer), sum(event.counts), sum(event.tokens)
        tokens = [self.random.randint(0, rows) for _ in demand]
        mass, losses = self.random.random(), [self.random.randint(0, slots) for _ in range(3)]
        return Routing(demand, tokens, mass * self.random.random(), mass, slots, *losses)


@dataclass(frozen=True)
class Case:
    setup: Setup
    warmup: list[Pass]
    passes: list[Pass]
    depth: int
    costs: FlatCosts
    by_layer: bool
    """Whether a policy that can is to share the budget out over layers."""
    policy_ns: tuple[int, int] = (0, 0)
    """The policy's own time per prefill and per decode pass, for who charges it."""
    lanes: int = 1
    """Of the link, for who has several."""
    root: Fraction | None = None
    """What the links of several GPUs lie behind."""


@st.composite
def cases(draw: st.DrawFn) -> Case:
    n_experts = draw(st.integers(2, 8))
    sizes = draw(st.lists(st.integers(4, 40), min_size=1, max_size=4))
    by_layer = draw(st.booleans())
    least = sum(sizes) if by_layer else max(sizes)
    budget = draw(st.integers(least, least + sum(sizes) * n_experts // 2))
    seed = draw(st.integers(0, 1 << 16))
    durations = st.sampled_from([0, 1, 3, 10, 50])
    costs = FlatCosts(*(draw(durations) for _ in range(7)))
    random = Random(seed)

    def one_pass() -> Pass:
        k, rows = random.randint(1, min(4, n_experts)), random.choice([1, 1, 2, 5])
        seen = [[random.random() < 0.9 for _ in sizes] for _ in range(rows)]  # a layer may see nothing of a token
        chosen = [[random.sample(range(n_experts), k * sees) for sees in row] for row in seen]
        return make_pass(chosen, n_experts, prefill=random.random() < 0.3)

    chunks, depth = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    passes = [one_pass() for _ in range(draw(st.integers(1, 8)))]
    warmup = draw(st.sampled_from([0, 0, 1, 3]))
    setup = make_setup(sizes, n_experts, budget, chunks=chunks, costs=costs, seed=seed)
    own = draw(st.tuples(*[st.sampled_from([0, 0, 1, 5, 40, 200])] * 2))
    lanes = draw(st.sampled_from([1, 1, 2, 3, 5]))
    return Case(setup, passes[:warmup], passes[warmup:], depth, costs, by_layer, own, lanes)


@st.composite
def hosted_cases(draw: st.DrawFn) -> Case:
    """Cases on machines whose host computes."""
    case, durations = draw(cases()), st.sampled_from([0, 1, 3, 10, 50])
    dram = draw(st.sampled_from([None, Fraction(1, 7), Fraction(1), Fraction(5, 2), Fraction(40)]))
    host = FlatHost(draw(st.integers(1, 3)), dram, draw(durations), draw(durations), draw(durations))
    return replace(case, setup=replace(case.setup, host=host))


def restless(setup: Setup, case: Case) -> Restless:
    return Restless(setup, by_layer=case.by_layer)
