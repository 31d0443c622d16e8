"""A lossy policy's outputs beside the full model's: one document for each budget."""

import gc
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from policies import registry
from policies.api import Policy
from policies.lru import LRU
from real.quality.scores import Kept, Scores
from real.quality.uniform import Uniform
from real.quality.versions import Held, all_in, packed_sizes, sized
from real.run.session import on_device
from real.runtime.models import Where
from real.runtime.offloaded import Offloaded
from real.runtime.recorded import run_taught
from real.runtime.runner import check_policy
from real.validation.ran import runtime_digest
from real.words import model_dtype
from sim.experiment.cell import Cell, make_cell, make_core, make_policy
from sim.experiment.config import RunConfig
from sim.experiment.provenance import code_digest, identify, modelled
from sim.results.columns import leaves
from sim.results.document import SCHEMA
from sim.results.quality import quality
from sim.results.versions import of_versions
from traces.collect.record import Wanted, collect
from traces.format.layout import SIGNALS
from traces.kit.errors import UserError
from traces.models.devices import ROOM, device_name, free_memory
from traces.models.load import Loaded, recorder_version
from traces.prompts.jobs import Decoding
from traces.prompts.source import PromptFile


@contextmanager
def traced(config: RunConfig, loaded: Loaded, prompts: PromptFile | None, decoding: Decoding) -> Iterator[RunConfig]:
    """The configuration on the text's trace: the one that is named, or one that is recorded here, and dropped."""
    if prompts is None:
        yield config
        return
    signals = registry.find(str(config.policy.get("name"))).signals | {"router_probs", "token_ids"}
    with tempfile.TemporaryDirectory(prefix="moe-offload-") as scratch:
        trace = Path(scratch) / "text"
        collect(loaded, prompts, trace, decoding, Wanted(frozenset(map(str, signals)) & set(SIGNALS), ahead=3))
        yield replace(config, trace=str(trace))


def measure(
    config: RunConfig,
    name: str,
    budgets: Sequence[str],
    where: Where,
    prompts: PromptFile | None,
    decoding: Decoding,
    uniform: Sequence[str] = (),
) -> Iterator[dict[str, Any]]:
    """The result documents, one for each budget (none: the configuration's), as they come, then one for each dtype of
    ``uniform``, with all experts in it. UserError for mistakes.

    ``name``: the checkpoint; ``prompts``: texts instead of the configuration's trace.
    """
    loaded = where.load(name, model_dtype(config))
    sizes = packed_sizes(loaded.model, uniform)
    with traced(config, loaded, prompts, decoding) as given:
        budgets = budgets or [str(given.budget)]
        cells = [
            sized(make_cell(replace(given, budget=budget, bounds=False, log=False)), sizes, uniform)
            for budget in budgets
        ]
        _check_source(cells[0], loaded)
        for cell in cells:  # a mistake in the last one shows before the first is run
            policy = make_policy(cell)
            check_policy(policy, policy.setup.versions[1:])
            make_core(cell, policy)
        model = where.put(loaded.model)
        cells = [on_device(cell, model) for cell in cells]
        kept, held = full_outputs(cells[0], model), Held(model, where)
        runs = [(cell, make_policy) for cell in cells] + [all_in(cells[0], dtype) for dtype in uniform]
        for cell, make in runs:
            gc.collect()  # the slots of the run before: its core and its policy hold each other
            yield _compared(cell, make, model, kept, held, loaded, recorded=prompts is not None)


def _check_source(cell: Cell, loaded: Loaded) -> None:
    """UserError unless the trace was recorded from this model: its tokens would be others, and its routing too."""
    manifest = cell.trace.manifest.model
    ours, its = (loaded.name, loaded.revision), (manifest.name, manifest.revision)
    at = 0 if None in (ours[1], its[1]) else 1  # a folder has no revision
    if ours[at] != its[at]:
        raise UserError(
            f"trace={cell.config.trace} was recorded from {its[0]}, and model={loaded.name};"
            " allowed: a trace of this model, or prompts=FILE"
        )


def full_outputs(cell: Cell, model: Offloaded) -> Kept:
    """The full model's outputs: all experts resident, or, where the device has no room for them, the cell's budget."""
    budget, device = cell.total_expert_bytes, model.backend.device
    if device.type == "cuda" and budget > ROOM * free_memory(device):
        budget = cell.setup.budget
    whole = replace(cell, setup=replace(cell.setup, budget=budget))
    steps = cell.trace.steps
    rows = sum(int(steps["rows"][cell.trace.steps_of(request)].sum()) for request in cell.selection.measured)
    kept = Kept(rows, int(model.model.config.get_text_config().vocab_size))
    run_taught(whole, model, LRU(whole.setup), kept.take)
    return kept


def _compared(
    cell: Cell,
    make: Callable[[Cell], Policy],
    model: Offloaded,
    kept: Kept,
    held: Held,
    loaded: Loaded,
    *,
    recorded: bool,
) -> dict[str, Any]:
    from sim.experiment.run import simulate  # and SimPy

    scores, policy = Scores(cell.trace, kept), make(cell)
    run = run_taught(cell, model, policy, scores.take, held.versions(policy.setup.versions[1:]))
    simulated = simulate(cell, make(cell))
    outcomes = {"simulator": simulated, "device": run.outcome}
    known = {where: quality(outcome.policy, outcome.accounts) for where, outcome in outcomes.items()}
    first_order = {where: shares for where, (shares, _) in known.items()}
    nulls = {
        f"first_order.{where}{key.removeprefix('quality')}": why
        for where, (_, unknown) in known.items()
        for key, why in unknown.items()
    }
    measured = scores.figures()
    versions, unseen = of_versions(run.core.setup.versions, run.outcome.accounts)
    nulls |= unseen
    nulls |= {key: "there is no such token" for key, figure in leaves(measured, "measured") if figure is None}
    policy = run.outcome.policy
    return {
        "schema": SCHEMA,
        "kind": "quality",
        "config": identify(cell, policy.predictors()).resolved,
        "provenance": {
            "model": {"name": loaded.name, "revision": loaded.revision, "dtype": str(loaded.model.dtype)[6:]},
            "text": _source(cell, recorded),
            "device": {
                "name": device_name(model.backend.device),
                "software": recorder_version(),
                "threads": torch.get_num_threads(),
                "experts": model.computes(run.machine.pool),
                **run.machine.facts(),
            },
            "hardware": {"name": cell.hardware.name, "provenance": cell.hardware.provenance},
            **modelled(cell, policy),
            "routing": "the model's own on the device; the trace's in the simulator",
            "lossless": policy.lossless,
            "seed": cell.config.seed,
            "code": code_digest(None if isinstance(policy, Uniform) else policy.name),
            "code_real": runtime_digest(),
            "decision_digest": {"device": run.core.digest(), "simulator": simulated.core.digest()},
        },
        "policy": {"name": policy.name, "facts": dict(run.outcome.decided)},
        "memory": {"budget_bytes": cell.setup.budget, "peak_bytes": run.core.state.peak + run.core.own_bytes},
        **versions,
        "measured": measured,
        "first_order": first_order,
        "nulls": nulls,
    }


def _source(cell: Cell, recorded: bool) -> dict[str, Any]:
    """What text it is, and where its end is the model's own."""
    manifest = cell.trace.manifest
    return {
        "prompts": manifest.prompts.source,
        "licence": manifest.prompts.licence,
        "decoding": dict(manifest.decoding),
        "trace": None if recorded else cell.trace.sha256,
        "requests": len(cell.selection.measured),
        "split": cell.config.measure if cell.selection.train else "all",
        "continuation": "the text's own"
        if manifest.decoding["mode"] == "teacher_forced"
        else "generated by the full model",
    }
