"""One run on a device, from a configuration to its accounts: a trace's routing, or prompts that the model continues."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from policies.api import Predictor, Setup, Signal
from policies.predictors.saved import Fitted
from policies.predictors.saved import load as load_predictor
from real.run.folder import Session, write_trace
from real.runtime.generate import Served, generate
from real.runtime.live import AHEAD, Live
from real.runtime.models import Where
from real.runtime.offloaded import Offloaded
from real.runtime.recorded import run_forced
from real.runtime.runner import DeviceRun, check_device, check_shape, depth_of, device_machine, running
from real.words import model_dtype
from sim.core.core import Core
from sim.core.log import replay
from sim.experiment.budget import AUTO, Room
from sim.experiment.cell import Cell, make_cell, make_core, make_policy, make_setup, policy_of
from sim.experiment.config import RunConfig
from sim.experiment.lacks import There
from sim.prices import AS_TRACED, HardwareProfile, ModelProfile
from sim.prices.costs import Costs
from sim.workload.passes import select
from traces import Trace, find_trace, open_trace
from traces.calibrate.machine import now
from traces.kit.errors import UserError
from traces.models.devices import ROOM, device_name, free_memory
from traces.models.families import MoeModel
from traces.models.load import end_tokens, recorder_version
from traces.prompts.jobs import Decoding, plan
from traces.prompts.source import PromptFile


def forced(config: RunConfig, name: str, where: Where, weights: str) -> Session:
    """Serve a trace's requests with its routing. UserError where model and trace do not suit each other."""
    cell = make_cell(replace(config, bounds=False))
    model = where.open(name, model_dtype(config), weights, cell.setup.n_layers)
    cell = on_device(cell, model)
    run = run_forced(cell, model, make_policy(cell))
    digest = replay(run.core.log, make_core(cell, make_policy(cell)))
    return Session(cell, run, facts_of(model, run, weights, "of the trace", digest))


def live(
    config: RunConfig,
    name: str,
    where: Where,
    prompts: PromptFile,
    decoding: Decoding,
    predictor: str = "",
    *,
    history_given: bool = False,
) -> Session:
    """Continue prompts. The trace of it is made, and the result is told of that trace.

    ``predictor``: the file of a fitted one. ``history_given``: whether the user has said whose requests are learned
    from. UserError for what cannot be.
    """
    if config.measure != "test":
        raise UserError(f"measure={config.measure}: prompts are measured, no recorded requests; allowed: test")
    loaded = where.load(name, model_dtype(config))
    jobs = [plan(prompt, loaded, decoding) for prompt in prompts]
    if config.seed:
        jobs = [jobs[i] for i in np.random.default_rng(config.seed).permutation(len(jobs))]
    requests = [Served(number, job.ids, job.choose, job.new_tokens) for number, job in enumerate(jobs)]
    model = where.put(loaded.model)
    history = find_history(config, model.moe, given=history_given)
    fitted = [load_predictor(Path(predictor))] if predictor else []
    predictors = {it.name: it for it in fitted}
    run, shown = serve(config, model, loaded.name, requests, history, predictors, end_tokens(loaded))
    setup = run.core.setup
    fresh = policy_of(config.policy, setup, there(config, history, predictors))
    with torch.inference_mode():
        shown.keep_all()
    digest = replay(run.core.log, Core(fresh, setup, shown.signals(fresh)))
    made = TemporaryDirectory(prefix="moe-offload-")
    folder = Path(made.name) / "trace"
    write_trace(folder, shown, requests, loaded, model, prompts, decoding, [job.prompt.source for job in jobs])
    # budget=auto is what it was here: the trace that was made asks for less context.
    config = replace(config, budget=setup.budget if config.budget == AUTO else config.budget)
    cell = make_cell(replace(config, trace=str(folder), bounds=False, warmup=0, limit=None, seed=0))
    about = facts_of(model, run, "auto", "of the model", digest) | {
        "history": None if history is None else history.sha256,
        "predictors": {it.name: it.sha256 for it in fitted},
    }
    texts = tuple(loaded.tokenizer.decode(request.made, skip_special_tokens=True) for request in requests)
    return Session(cell, run, about, texts, made, history)


def serve(
    config: RunConfig,
    model: Offloaded,
    name: str,
    requests: Sequence[Served],
    history: Trace | None,
    predictors: Mapping[str, Fitted] | None = None,
    ends: Collection[int] = (),
) -> tuple[DeviceRun, Live]:
    """Continue prompts under the configured policy: what the run has left, and what the model has shown. UserError."""
    fitted, batch = predictors or {}, int(config.workload["batch"])
    tokens = [len(request.prompt) + request.new_tokens for request in requests]
    setup = make_live_setup(config, model, name, fitted, tokens)
    if config.budget == AUTO:
        setup = make_live_setup(replace(config, budget=budget_there(setup, model)), model, name, fitted, tokens)
    policy = policy_of(config.policy, setup, there(config, history, fitted))
    depth = depth_of(HardwareProfile.from_dict(config.hardware))
    live = Live(model.moe, policy.needs(), fitted)
    with running(model, device_machine(model, policy, live.signals(policy), depth), live) as runner:
        generate(runner, live, requests, batch, ends)
        return runner.finish(), live


def facts_of(model: Offloaded, run: DeviceRun, weights: str, routing: str, replayed: str) -> dict[str, Any]:
    """Where and with what it was run, and whether its log ``replayed`` to the device's digest."""
    return {
        "name": device_name(model.backend.device),
        "date": now(),
        "threads": torch.get_num_threads(),
        "software": recorder_version(),
        "weights": weights,
        "link_depth": run.machine.depth,
        "experts": model.computes(run.machine.pool),
        **run.machine.facts(),
        "routing": routing,
        "replay_agrees": replayed == run.core.digest(),
    }


def on_device(cell: Cell, model: Offloaded) -> Cell:
    """The cell, with budget=auto as what there is on the device. UserError where that has no room for the budget."""
    if cell.config.budget == AUTO and (there := budget_there(cell.setup, model)) < cell.setup.budget:
        cell = make_cell(replace(cell.config, budget=there), cell.inputs)
    check_device(cell.setup, model)
    return cell


def budget_there(setup: Setup, model: Offloaded) -> int:
    """The budget, or what a GPU has free beside the dense part for it, some left for activations and the KV cache."""
    device = model.backend.device
    return setup.budget if device.type != "cuda" else min(setup.budget, int(ROOM * free_memory(device)))


def find_history(config: RunConfig, moe: MoeModel, *, given: bool) -> Trace | None:
    """The trace whose train requests are learned from, if it is of the model's routing shape."""
    trace = open_trace(find_trace(config.trace))
    ours, its = (len(moe.layers), moe.n_experts, moe.top_k), (trace.L, trace.E, trace.K)
    if ours == its:
        return trace
    if given:
        raise UserError(f"trace={config.trace}: of (layers, experts, top-K) {its}; the model has {ours}")
    return None


def make_live_setup(
    config: RunConfig, model: Offloaded, name: str, predictors: Mapping[str, Fitted], tokens: Sequence[int]
) -> Setup:
    """What the policy is to know, without a trace: a checkpoint is priced by its own shapes. UserError.

    ``tokens``: of each request, prompt and output.
    """
    moe, profile = model.moe, config.model
    if profile.get("name") == AS_TRACED:
        sizes = {"n_layers": len(moe.layers), "n_experts": moe.n_experts, "top_k": moe.top_k}
        dtype = str(model.model.dtype).removeprefix("torch.")
        section = {"name": name, **sizes, "expert_bytes": [model.store.layout.nbytes] * len(moe.layers)}
        priced = ModelProfile.from_manifest(section | {"shapes": model.shapes, "dtype": dtype})
    else:
        priced = ModelProfile.from_dict(profile)
    hardware = HardwareProfile.from_dict(config.hardware)
    costs = Costs(priced, hardware)
    known = {}
    for name, fitted in predictors.items():
        facts = {key: fitted.about[key] for key in ("kind", "input", "fit")}
        known[name] = Predictor(name, int(fitted.about["stride"]), int(fitted.about["top_k"]), facts)
    room = Room.of(priced, hardware, tokens, config.workload["batch"])
    setup = make_setup(config, costs, hardware, room, moe.n_experts, moe.top_k, known)
    check_shape(setup, model, priced.name)
    return setup


def there(config: RunConfig, history: Trace | None, predictors: Mapping[str, Fitted]) -> There:
    """What a policy has of a model that runs; ``history``: the trace whose train requests it learns from."""
    train = select(history).train if history is not None else ()
    return There(config.trace, history, train, predictors.keys(), tuple(Signal), AHEAD, live=True)
