"""Random cases on several GPUs; other tests may import these."""

from dataclasses import replace
from fractions import Fraction

from hypothesis import strategies as st

from policies.lru import LRU
from tests.sim.machine.restless import Case, cases


@st.composite
def spread_cases(draw: st.DrawFn) -> Case:
    """Cases whose experts lie anywhere on two to four GPUs."""
    case, gpus = draw(cases()), draw(st.integers(2, 4))
    n_all = case.setup.n_layers * case.setup.n_experts
    homes = draw(st.lists(st.integers(0, gpus - 1), min_size=n_all, max_size=n_all))
    durations = st.sampled_from([0, 0, 1, 3, 10, 50])
    costs = replace(case.costs, per_peer=draw(durations), per_peer_token=draw(durations))
    root = draw(st.sampled_from([None, None, Fraction(1, 7), Fraction(1), Fraction(5, 2)]))
    budget = gpus * draw(st.integers(case.setup.budget // 2, case.setup.budget)) + draw(st.integers(0, gpus - 1))
    setup = replace(case.setup, costs=costs, gpus=gpus, homes=homes, budget=budget)
    least = LRU(setup, scope="layer" if case.by_layer else "global").min_budget()
    return replace(case, setup=replace(setup, budget=max(budget, least)), costs=costs, root=root)
