"""What a perfect prediction of the next layer is worth, in closed form: min(copy, compute) per layer.

A trace without any reuse, so that every expert is copied once; K experts per layer, each copied in c and computed in e,
and d of other work before each gate. On demand, a layer takes d and then c * K + e, since all but one computation hide
behind the copies (c >= e; otherwise c + e * K). Foreseen, its copies begin when those of the layer before have ended,
or at that layer's gate if that is later: the layer takes as long as the slower of the two, max(c * K, e * K + d). For
K = 1 the difference is min(c, e + d), copy or compute, whichever is shorter. Nobody foresees a step's first layer,
but for the reference row, which looks over the end of a step (with h of work after its last layer).
"""

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import registry
from sim.check.laws import Run, run
from sim.check.synthetic import ABSENT, FlatCosts, Routing, setup_of

SIZE = 12
EXAMPLES = settings(max_examples=60)

times = st.builds(
    lambda copy, expert, launch, dense, head, overhead: FlatCosts(copy, expert, launch, dense, head, overhead),
    st.integers(1, 900),
    st.integers(0, 400),
    st.integers(0, 30),
    st.integers(0, 400),
    st.integers(0, 200),
    st.integers(0, 9),
)
shapes = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 4))  # steps, layers, experts per layer


def no_reuse(steps: int, n_layers: int, k: int) -> Routing:
    """Decode steps, each with experts of its own; the gates ahead are right."""
    own = np.arange(steps * k, dtype=np.uint8).reshape(steps, 1, k)
    ids = np.broadcast_to(own, (steps, n_layers, k)).copy()
    ahead = np.full((steps, n_layers, 1, k), ABSENT, np.uint8)
    ahead[:, :-1, 0] = ids[:, 1:]
    return Routing(ids, [(False, i, 1) for i in range(steps)], steps * k, {"gate_ahead": ahead})


def play(name: str, routing: Routing, costs: FlatCosts, chunks: int = 1, depth: int = 1, **params: Any) -> Run:
    k = routing.ids.shape[2]
    setup = setup_of(routing, 3 * k * SIZE, chunks=chunks, costs=costs)  # the layer, the next, and what is leaving
    return run(registry.build(name, setup, params), routing, depth=depth)


def wall(done: Run) -> int:
    return done.accounts.end_ns - done.accounts.start_ns


def copy_ns(costs: FlatCosts, chunks: int) -> int:
    """One expert, chunk by chunk."""
    return chunks * costs.copy_ns(SIZE // chunks)


def on_demand_ns(k: int, copy: int, expert: int) -> int:
    """From a layer's gate to its end."""
    return max(copy * k + expert, copy + expert * k)


@EXAMPLES
@given(costs=times, shape=shapes, chunks=st.sampled_from([1, 2, 3, 4]), depth=st.integers(1, 3))
def test_a_layer_foreseen_takes_the_longer_of_copy_and_compute(
    costs: FlatCosts, shape: tuple[int, int, int], chunks: int, depth: int
) -> None:
    steps, n_layers, k = shape
    routing = no_reuse(*shape)
    copy, expert = copy_ns(costs, chunks), costs.expert + costs.launch_ns
    other = costs.dense + costs.layer_overhead_ns
    layer = other + on_demand_ns(k, copy, expert)
    demanded = play("on_demand", routing, costs, chunks, depth)
    assert wall(demanded) == steps * (n_layers * layer + costs.head)

    foreseen = play("gate_ahead", routing, costs, chunks, depth, outstanding=k)
    longer = max(copy * k, expert * k + other)
    assert wall(foreseen) == steps * (layer + (n_layers - 1) * longer + costs.head)
    assert foreseen.accounts.compute_ns == demanded.accounts.compute_ns  # what is saved is stall
    if k == 1:
        saving = wall(demanded) - wall(foreseen)
        assert saving == steps * (n_layers - 1) * min(copy, expert + other)


@EXAMPLES
@given(costs=times, steps=st.integers(1, 6), n_layers=st.integers(2, 6), chunks=st.sampled_from([1, 3]))
def test_the_reference_row_saves_as_much_and_over_the_end_of_a_step(
    costs: FlatCosts, steps: int, n_layers: int, chunks: int
) -> None:
    routing = no_reuse(steps, n_layers, 1)
    copy, compute = copy_ns(costs, chunks), costs.expert + costs.launch_ns + costs.dense + costs.layer_overhead_ns
    saving = wall(play("on_demand", routing, costs, chunks)) - wall(play("perfect_next_layer", routing, costs, chunks))
    within = steps * (n_layers - 1) * min(copy, compute)
    between = (steps - 1) * min(copy, compute + costs.head)
    assert saving == within + between


@EXAMPLES
@given(costs=times, shape=shapes, chunks=st.sampled_from([1, 3]))
def test_buffers_save_what_a_cache_saves(costs: FlatCosts, shape: tuple[int, int, int], chunks: int) -> None:
    """Mixtral-Offloading with buffers for all that the next gate names: where nothing is reused, the same."""
    _, n_layers, k = shape
    routing = no_reuse(*shape)
    params = {"speculated": None, "buffers": 2 * k}
    setup = setup_of(routing, (n_layers * k + 2 * k) * SIZE, chunks=chunks, costs=costs)  # k slots per layer
    buffered = run(registry.build("mixtral_offloading", setup, params), routing)
    assert wall(buffered) == wall(play("gate_ahead", routing, costs, chunks, outstanding=k))
