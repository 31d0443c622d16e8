"""What a run rests on, without running it: the bounds at many budgets, and the passes that are replayed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sim.api.words import Value, budget_of, run_words
from sim.experiment.bounds import floors
from sim.experiment.cell import Cell, Inputs, make_cell, passes_of
from sim.experiment.compose import read_config
from sim.experiment.config import RunConfig
from sim.workload.passes import Pass
from traces import DECODE, PREFILL, Trace
from traces.kit.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

ANY_POLICY: dict[str, Value] = {"policy": "lru"}
"""No pass and no bound depends on it."""
ANY_BUDGET: dict[str, Value] = {"budget": "50%"}
"""No pass depends on it. A bound does: without one it is of the budget that a run has without one."""


def bounds(*words: str, **keys: Value) -> pd.DataFrame:
    """What no lossless policy on the GPU can beat, at each budget: ``sim.bounds(budget=["2GB", "4GB"])``.

    ``words`` and ``keys`` as of :func:`sim.run`. Columns: budget_bytes, bound_time_ms of the whole window,
    bound_ms_per_token of generated tokens, bound_bytes over the link. UserError for a mistake, and where requests
    arrive, as passes then depend on the policy.
    """
    import pandas as pd

    given = _given(words, keys, ANY_POLICY)
    budgets = given.pop("budget", None)
    several = budgets if isinstance(budgets, Sequence) and not isinstance(budgets, str) else [budgets]
    if not several:
        raise UserError("budget=[]: at least one value is wanted")
    first = read_config(run_words(words, given if budgets is None else {**given, "budget": several[0]}))
    configs = [first, *(replace(first, budget=budget_of(budget)) for budget in several[1:])]
    inputs = Inputs(keep=True)
    cells = [_cell(config, inputs) for config in configs]
    found = floors(cells[0], [cell.setup.budget for cell in cells])
    tokens = sum(_generated(cells[0].trace, request) for request in cells[0].selection.measured)
    rows = [
        {
            "budget_bytes": floor.budget_bytes * cells[0].costs.spread.alike,
            "bound_time_ms": floor.ns / 1e6,
            "bound_ms_per_token": floor.ns / 1e6 / tokens if tokens else None,
            "bound_bytes": floor.nbytes,
        }
        for floor in found
    ]
    return pd.DataFrame(rows)


def passes(*words: str, **keys: Value) -> Iterator[Pass]:
    """The forward passes that a run measures, in order; ``words`` and ``keys`` as of :func:`sim.run`.

    Of each among others ``prefill`` and ``demand``: by layer the numbers (layer * E + index) of the experts demanded,
    in token order. UserError for a mistake, and where requests arrive, as passes then depend on the policy.
    """
    cell = _cell(read_config(run_words(words, _given(words, keys, ANY_POLICY | ANY_BUDGET))), Inputs())
    return passes_of(cell, cell.selection.measured)


def _given(words: Sequence[str], keys: Mapping[str, Value], rest: Mapping[str, Value]) -> dict[str, Value]:
    """The keys, and where neither they nor words say it, what does not matter: the rest."""
    said = {word.partition("=")[0] for word in words}
    return {**{key: value for key, value in rest.items() if key not in said}, **keys}


def _generated(trace: Trace, request: int) -> int:
    """Tokens: one per decode step, and the first by the prompt where that was recorded."""
    phases = trace.steps["phase"][trace.steps_of(request)]
    return int((phases == DECODE).sum() + (phases == PREFILL).any())


def _cell(config: RunConfig, inputs: Inputs) -> Cell:
    cell = make_cell(config, inputs)
    if cell.traffic is not None:
        raise UserError("workload=online: its passes depend on the policy; allowed here: closed_loop")
    return cell
