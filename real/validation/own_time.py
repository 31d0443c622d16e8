"""The policies' own time, from the logs of a grid's runs."""

from typing import Any

from real.validation.ran import Ran, Runs
from sim.experiment.cell import Inputs, make_cell, make_core, make_policy
from sim.experiment.config import RunConfig
from sim.experiment.policy_time import BASELINE, Logged, measure_policy_time


def own_time(runs: Runs, budget: str, inputs: Inputs, repeat: int = 3) -> dict[str, Any]:
    """By policy that ran at ``budget``: microseconds of this machine's CPU per pass, above on_demand's.

    As ``software.policy_us`` of a hardware profile takes them; {} where on_demand has not run. See
    sim.experiment.policy_time.
    """
    base = next((it for (policy, _), it in runs.items() if policy == BASELINE), None)
    if base is None:
        return {}
    found = {}
    for (policy, size), it in runs.items():
        if size == budget and policy != BASELINE:
            measured = measure_policy_time(_logged(it, inputs), _logged(base, inputs), repeat=repeat)
            found[it[0].policy["name"]] = {phase: round(took.us, 1) for phase, took in measured.items()}
    return found


def _logged(it: tuple[RunConfig, list[Ran]], inputs: Inputs) -> Logged:
    config, runs = it
    cell = make_cell(config, inputs)
    return Logged(runs[0].log, lambda: make_core(cell, make_policy(cell)))
