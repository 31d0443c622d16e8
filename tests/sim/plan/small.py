"""Questions of a machine and a model that are small enough for exhaustive answers; cells without a store."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sim.experiment.cell import Inputs, make_cell, make_policy
from sim.experiment.config import RunConfig
from sim.experiment.run import simulate
from sim.plan.answer import Answer, answer
from sim.plan.cells import Figures, Found, Runner
from sim.plan.question import Question
from sim.prices import HardwareProfile
from sim.prices.chosen import model_of
from sim.results.compare.target import Target
from sim.results.document import hit_rates, latencies
from tests.sim.small_trace import MACHINE, SIZE, Plan, config, write
from traces import Trace
from traces.kit.errors import UserError

LAYERS, EXPERTS = 2, 4
TOTAL = LAYERS * EXPERTS * SIZE
POLICIES = ("lru", "lru_layer", "lfru", "static", "static_split", "fiddler", "split_prompts")


def trace_of(path: Path, seed: int, requests: int = 4, decode: int = 6) -> Trace:
    """A train request and some to measure, each a prompt of three tokens; some experts are chosen more than others."""
    plans = [Plan((3,), decode, split="test" if number else "train") for number in range(requests)]
    rows = sum(plan.rows for plan in plans)
    random = np.random.default_rng(seed)
    chances = random.dirichlet(np.full(EXPERTS, 0.7), size=LAYERS)
    ids = np.stack([random.choice(EXPERTS, size=rows, p=own) for own in chances], axis=1)[:, :, None]
    return write(path, plans, ids, n_experts=EXPERTS)


def question(trace: Trace, memory: int, *, target: str = "", host_memory: int | None = None, **link: Any) -> Question:
    """What is asked of the machine by hand."""
    hardware = {**MACHINE, "gpu": {**MACHINE["gpu"], "memory_bytes": memory}, "link": {**MACHINE["link"], **link}}
    base = replace(config(trace, 1), hardware=hardware)
    model, _ = model_of(base.model, trace)
    goal = Target.parse(target) if target else None
    machine = HardwareProfile.from_dict(hardware)
    words = (f"trace={trace.path}",)
    return Question(words, base, model, model.dtype, machine, goal, 10, 1, host_memory, None)


def quick(config: RunConfig, _: Path, inputs: Inputs) -> Found:
    """A cell as ``run_config`` gives it, but kept nowhere."""
    try:
        cell = make_cell(config, inputs)
        policy = make_policy(cell)
    except UserError as error:
        return str(error)
    outcome = simulate(cell, policy)
    speed = outcome.generated * 1e9 / outcome.wall_ns
    hits, on_host = hit_rates(outcome.accounts)["complete"], bool(outcome.accounts.host_lookups)
    return Figures(cell.setup.budget, latencies(outcome.timings), speed, hits, on_host, None)


def answered(it: Question, policies: Sequence[str] = POLICIES) -> Answer:
    """The answer, found without a store."""
    with Runner(Path("nowhere"), 1, find=quick) as runner:
        return answer(it, policies, {"given": [str(it.base.trace)]}, runner)
