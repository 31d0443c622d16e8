"""What the parts of a pass take on the GPU. A pass in pieces takes what these take by themselves."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from sim.prices.costs import Costs
from sim.workload.passes import Pass


class Dense(NamedTuple):
    """All of a pass but its experts, in ns."""

    lead_ns: int  # before the first MoE layer
    layer_ns: int  # of each MoE layer, up to its gate
    software_ns: int  # the same, on the CPU
    head_ns: int  # after the last


def dense_of(step: Pass, costs: Costs) -> Dense:
    """Of a pass, whatever it computes at a time."""
    if not (pieces := step.pieces):
        of_all = step.rows, step.kv_tokens, step.pairs
        head_ns = costs.head_ns(len(step.requests))
        return Dense(costs.lead_ns(*of_all), costs.dense_ns(*of_all), costs.layer_overhead_ns, head_ns)
    return Dense(
        sum([costs.lead_ns(rows, kv_tokens, pairs) for rows, kv_tokens, pairs, _ in pieces]),
        sum([costs.dense_ns(rows, kv_tokens, pairs) for rows, kv_tokens, pairs, _ in pieces]),
        costs.layer_overhead_ns * len(pieces),
        sum([costs.head_ns(requests) for *_, requests in pieces]),
    )


def piece_prices(
    step: Pass, layer: int, demand: Sequence[int], tokens: Sequence[int], costs: Costs, n_experts: int
) -> dict[int, int]:
    """What each expert of an event of a pass in pieces takes, with a launch for each piece that has tokens of it.

    ``demand``, ``tokens``: as they are computed, in whatever version (policies.api.Setup). Where a policy gives an
    expert other tokens than the gate, no row says of which piece they are: they are taken to lie in the first that
    could have them.
    """
    recorded = dict(zip(step.demand[layer], step.piece_tokens[layer], strict=True))
    n_all, launch, rows = n_experts * len(step.demand), costs.launch_ns, [piece.rows for piece in step.pieces]
    found = {}
    for x, n in zip(demand, tokens, strict=True):
        table, counts = costs.expert_table(x // n_experts, step.rows), recorded.get(x % n_all, ())
        if sum(counts) != n:
            counts = [max(0, min(most, n - sum(rows[:i]))) for i, most in enumerate(rows)]
        found[x] = sum([table[count] + launch for count in counts if count])
    return found


def expert_prices(step: Pass, layer: int, costs: Costs) -> list[int]:
    """What each expert that the gate of an event chose takes, with its launches."""
    table, launch = costs.expert_table(layer, step.rows), costs.launch_ns
    if step.pieces:
        return [sum([table[count] + launch for count in counts if count]) for counts in step.piece_tokens[layer]]
    return [table[count] + launch for count in step.tokens[layer]]


def reduced_ns(step: Pass, by_rows: Callable[[int], int]) -> int:
    """What a layer event takes at its end by its rows: an all-reduce, say."""
    return sum([by_rows(piece.rows) for piece in step.pieces]) if step.pieces else by_rows(step.rows)
