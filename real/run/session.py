"""One run on a device, from a configuration to its accounts: a trace's routing, or requests that it continues."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from policies.api import Predictor, Setup, Signal
from policies.predictors.saved import Fitted
from real.run.context import cache_bytes
from real.run.folder import Session
from real.runtime.generate import Served, generate
from real.runtime.live import AHEAD, Live
from real.runtime.machine import Machine
from real.runtime.models import Where
from real.runtime.offloaded import Offloaded
from real.runtime.recorded import run_forced
from real.runtime.runner import DeviceRun, check_device, check_shape, depth_of, device_machine, running
from real.words import model_dtype
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
from traces.models.load import recorder_version


def forced(config: RunConfig, name: str, where: Where, weights: str) -> Session:
    """Serve a trace's requests with its routing. UserError where model and trace do not suit each other."""
    cell = make_cell(replace(config, bounds=False))
    model = where.open(name, model_dtype(config), weights, cell.setup.n_layers)
    cell = on_device(cell, model)
    run = run_forced(cell, model, make_policy(cell))
    digest = replay(run.core.log, make_core(cell, make_policy(cell)))
    return Session(cell, run, facts_of(model, run, weights, "of the trace", digest))


def prepared(
    config: RunConfig,
    model: Offloaded,
    name: str,
    predictors: Mapping[str, Fitted],
    tokens: Sequence[int],
) -> tuple[RunConfig, Setup]:
    """The configuration with budget=auto as what there is on the device, and what its policy is to know. UserError."""
    setup = make_live_setup(config, model, name, predictors, tokens)
    if config.budget == AUTO:
        needed = cache_bytes(model, tokens, int(config.workload["batch"]))
        config = replace(config, budget=budget_there(setup, model, needed))
        setup = make_live_setup(config, model, name, predictors, tokens)
    return config, setup


def serve(
    config: RunConfig,
    model: Offloaded,
    name: str,
    requests: Sequence[Served],
    history: Trace | None,
    predictors: Mapping[str, Fitted] | None = None,
    ends: Collection[int] = (),
    tell: Callable[[Served], None] = lambda request: None,
    over: Callable[[], bool] = lambda: False,
    made: Callable[[Machine], None] = lambda machine: None,
) -> tuple[DeviceRun, Live]:
    """Continue prompts under the configured policy: what the run has left, and what the model has shown. UserError.

    ``made`` is given the machine before it runs; ``tell`` and ``over``: see :func:`real.runtime.generate.generate`.
    """
    fitted, batch = predictors or {}, int(config.workload["batch"])
    tokens = [len(request.prompt) + request.new_tokens for request in requests]
    config, setup = prepared(config, model, name, fitted, tokens)
    policy = policy_of(config.policy, setup, there(config, history, fitted))
    depth = depth_of(HardwareProfile.from_dict(config.hardware))
    live = Live(model.moe, policy.needs(), fitted)
    machine = device_machine(model, policy, live.signals(policy), depth)
    made(machine)
    with running(model, machine, live) as runner:
        generate(runner, live, requests, batch, ends, tell, over)
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


def budget_there(setup: Setup, model: Offloaded, cached: int = 0) -> int:
    """The budget, or what a GPU has free beside the dense part and ``cached`` bytes of keys and values for it, some
    left for activations."""
    device = model.backend.device
    return setup.budget if device.type != "cuda" else min(setup.budget, int(ROOM * (free_memory(device) - cached)))


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
