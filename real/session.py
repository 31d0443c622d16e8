"""One run on a device, from a configuration to its accounts: a trace's routing, or prompts that the model continues."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from policies import registry
from policies.api import Policy, Predictor, Setup
from policies.predictors.saved import Fitted
from policies.predictors.saved import load as load_predictor
from policies.promoe import fitted_name
from real.runtime.core import DeviceCore
from real.runtime.engine import Engine
from real.runtime.forced import check_shape, machine_of, run_forced
from real.runtime.generate import Served, generate
from real.runtime.host import Host
from real.runtime.intake import open_checkpoint
from real.runtime.live import Live
from real.runtime.machine import Machine
from real.runtime.models import open_model
from real.runtime.offloaded import Offloaded
from real.runtime.pool import Pool
from real.runtime.trace import write_trace
from real.words import host_bytes, model_dtype
from sim.core.core import Core
from sim.core.replay import replay
from sim.experiment.cell import Cell, Predicted, find_trace, make_cell, make_setup
from sim.experiment.config import RunConfig
from sim.experiment.room import AUTO, Context, Room
from sim.experiment.stated import stated
from sim.prices import AS_TRACED, HardwareProfile, ModelProfile
from sim.prices.costs import Costs
from sim.results.document import Outcome, document
from sim.workload.history import TrainRequests
from sim.workload.passes import select
from sim.workload.signals import TraceSignals
from traces import Trace, open_trace
from traces.collect.record import end_tokens, recorder_version
from traces.kit.errors import UserError
from traces.models.devices import ROOM, device_name, device_of, free_memory
from traces.models.families import MoeModel
from traces.models.load import Loaded
from traces.prompts.jobs import Decoding, plan
from traces.prompts.source import PromptFile
from traces.reference import PROMPTS_FILE

if TYPE_CHECKING:
    from real.run import Options


@dataclass(frozen=True)
class Session:
    """A run that has ended. ``cell``: the configuration on the trace that was served, or made."""

    cell: Cell
    outcome: Outcome
    machine: Machine
    about: Mapping[str, Any]
    texts: tuple[str, ...] = ()
    """What was generated, by request."""
    keep_trace: Path | None = None
    """The folder of the trace that was made, to be moved to the result."""
    scratch: Any = field(default=None, repr=False)

    @property
    def core(self) -> DeviceCore:
        return self.machine.core

    def document(self) -> dict[str, Any]:
        """The result document of the simulator, with what is to be said of the device."""
        made = document(self.cell, self.outcome, None)
        made["nulls"]["bounds"] = made["nulls"]["reference"] = "a device's run: python -m sim run has them"
        made["provenance"]["device"] = dict(self.about)
        return made


def forced(config: RunConfig, options: Options, name: str) -> Session:
    """Serve a trace's requests with its routing. UserError where model and trace do not suit each other."""
    cell = make_cell(replace(config, bounds=False))
    device = device_of(options.device)
    host = host_bytes(options.host_memory)
    loaded = open_model(name, model_dtype(config), options.weights, cell.setup.n_layers, host_memory=host)
    model = Offloaded(loaded, device, host_memory=host, exact=options.exact == "true")
    cell = on_device(cell, model)
    policy = cell.policy()
    run = run_forced(cell, model, policy)
    fresh = cell.policy()
    digest = replay(run.core.log, cell.core(fresh))
    about = facts_of(model, run.machine, options) | {
        "routing": "of the trace",
        "replay_agrees": digest == run.core.digest(),
    }
    return Session(cell, run.outcome, run.machine, about)


def live(config: RunConfig, options: Options, name: str, *, history_given: bool) -> Session:
    """Continue prompts. The trace of it is made, and the result is told of that trace."""
    if config.measure != "test":
        raise UserError(f"measure={config.measure}: prompts are measured, no recorded requests; allowed: test")
    host = host_bytes(options.host_memory)
    loaded = open_checkpoint(name, model_dtype(config), Host(host))
    requests, made_from = _requests(config, options, loaded)
    device = device_of(options.device)
    model = Offloaded(loaded.model, device, host_memory=host, exact=options.exact == "true")
    history = find_history(config, model.moe, given=history_given)
    predictors = _predictors(options.predictor)
    context = Context.of((len(request.prompt) + request.new_tokens for request in requests), config.workload["batch"])
    setup = make_live_setup(config, model, loaded.name, predictors, context)
    if config.budget == AUTO:  # decided here: the trace that is made asks for less context
        config = replace(config, budget=budget_there(setup, model))
        setup = make_live_setup(config, model, loaded.name, predictors, context)
    policy, fresh = (make_policy(config, setup, history, predictors) for _ in range(2))
    served = serve(config, model, policy, requests, frozenset(end_tokens(loaded)), predictors)
    shown, machine, core = served.shown, served.machine, served.machine.core
    with torch.inference_mode():
        shown.settle_all()
    digest = replay(core.log, Core(fresh, setup, served.signals(fresh)))
    scratch = tempfile.TemporaryDirectory(prefix="moe-offload-")
    folder = Path(scratch.name) / "trace"
    write_trace(folder, shown, requests, loaded, model, made_from)
    cell = make_cell(replace(config, trace=str(folder), bounds=False, warmup=0, limit=None, seed=0))
    about = facts_of(model, machine, options) | {
        "routing": "of the model",
        "replay_agrees": digest == core.digest(),
        "history": None if history is None else history.sha256,
        "predictors": {key: fitted.sha256 for key, fitted in predictors.items()},
    }
    texts = tuple(loaded.tokenizer.decode(request.made, skip_special_tokens=True) for request in requests)
    return Session(cell, served.outcome, machine, about, texts, folder, scratch)


@dataclass(frozen=True)
class LiveRun:
    """What serving prompts has left."""

    outcome: Outcome
    machine: Machine
    shown: Live

    def signals(self, policy: Policy) -> TraceSignals:
        """What was shown, as far as a policy declares it."""
        return TraceSignals(self.shown, policy.needs(), self.shown.predicted, policy.predictors())


def serve(
    config: RunConfig,
    model: Offloaded,
    policy: Policy,
    requests: list[Served],
    ends: frozenset[int],
    predictors: Mapping[str, Fitted] | None = None,
) -> LiveRun:
    """Serve prompts under a policy, ``workload.batch`` at a time. UserError where the device has no room."""
    setup = policy.setup
    check_device(setup, model)
    shown = Live(model.moe, frozenset(map(str, policy.needs())), predictors)
    signals = TraceSignals(shown, policy.needs(), shown.predicted, policy.predictors())
    pool = Pool(model.store, setup.budget - policy.gpu_bytes(), setup.chunks, model.backend)
    core = DeviceCore(policy, setup, signals, pool)
    machine, facts = machine_of(HardwareProfile.from_dict(config.hardware), model, core), stated(policy)
    with model.attached(machine, shown) as run, shown.attached():
        engine = Engine(model.model, model.backend.device)
        generate(run, engine, shown, requests, int(config.workload["batch"]), ends)
    return LiveRun(Outcome(policy, core, machine.finish(), machine.timings, facts), machine, shown)


def facts_of(model: Offloaded, machine: Machine, options: Options) -> dict[str, Any]:
    """Where and with what it was run."""
    return {
        "name": device_name(model.backend.device),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "threads": torch.get_num_threads(),
        "software": recorder_version(),
        "weights": options.weights,
        "link_depth": machine.depth,
        "experts": model.computes(machine.core.pool),
        **machine.core.pool.facts(),
    }


def check_device(setup: Setup, model: Offloaded) -> None:
    """UserError where the device has no room for the budget beside the dense part."""
    if model.backend.device.type != "cuda":
        return
    free = free_memory(model.backend.device)
    if setup.budget > free:
        raise UserError(f"budget={setup.budget}: {free} bytes are free on {model.backend.device} beside the dense part")


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


def _requests(config: RunConfig, options: Options, loaded: Loaded) -> tuple[list[Served], dict[str, Any]]:
    path = Path(options.prompts) if options.prompts else PROMPTS_FILE
    prompts = PromptFile(path, limit=config.limit or 0, split=0)
    decoding = Decoding(
        mode=options.decoding,
        max_new_tokens=options.max_new_tokens,
        max_prompt_tokens=options.max_prompt_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=config.seed,
    )
    jobs = [plan(prompt, loaded, decoding) for prompt in prompts]
    order = np.random.default_rng(config.seed).permutation(len(jobs)) if config.seed else range(len(jobs))
    requests = [Served(number, jobs[i].ids, jobs[i].choose, jobs[i].new_tokens) for number, i in enumerate(order)]
    about = {"prompts": prompts, "decoding": decoding, "sources": [jobs[i].prompt.source for i in order]}
    return requests, about


def find_history(config: RunConfig, moe: MoeModel, *, given: bool) -> Trace | None:
    """The trace whose train requests are learned from, if it is of the model's routing shape."""
    trace = open_trace(find_trace(config.trace))
    ours, its = (len(moe.layers), moe.n_experts, moe.top_k), (trace.L, trace.E, trace.K)
    if ours == its:
        return trace
    if given:
        raise UserError(f"trace={config.trace}: of (layers, experts, top-K) {its}; the model has {ours}")
    return None


def _predictors(file: str) -> dict[str, Fitted]:
    if not file:
        return {}
    fitted = load_predictor(Path(file))
    return {fitted_name(str(fitted.about["input"]), int(fitted.about["stride"])): fitted}


def make_live_setup(
    config: RunConfig, model: Offloaded, name: str, predictors: Mapping[str, Fitted], context: Context
) -> Setup:
    """What the policy is to know, without a trace: a checkpoint is priced by its own shapes. UserError."""
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
        about = Predictor(name, int(fitted.about["stride"]), int(fitted.about["top_k"]), {})
        known[name] = Predicted(about, np.empty((0, 0, 0), np.uint16), fitted.sha256)
    room = Room.of(priced, hardware, context)
    setup = make_setup(config, costs, hardware, room, moe.n_experts, moe.top_k, known)
    check_shape(setup, model, priced.name)
    return setup


def make_policy(config: RunConfig, setup: Setup, history: Trace | None, predictors: Mapping[str, Fitted]) -> Policy:
    """The configured policy, fitted on the train requests of ``history`` if it wants them. UserError."""
    given = dict(config.policy)
    policy = registry.build(str(given.pop("name")), setup, given)
    if policy.clairvoyant:
        raise UserError(f"policy={policy.name}: sees the future, and on a device there is none")
    for missing in sorted(policy.predictors() - predictors.keys()):
        raise UserError(
            f"policy={policy.name} needs the predictor {missing}: give predictor=FILE, of python -m policies fit"
        )
    if policy.wants_history():
        train = select(history).train if history is not None else ()
        if history is None or not train:
            raise UserError(
                f"policy={policy.name} learns from train requests: give trace=, of this model, with a split"
            )
        policy.fit(TrainRequests(history, train, policy.needs()))
    return policy
