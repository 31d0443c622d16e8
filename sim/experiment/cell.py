"""One cell: a checked configuration made real (trace, prices, budget, policy), and its identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from policies import registry
from policies.api import Policy, Predictor, Setup
from sim.core.core import Core
from sim.core.replay import RecordingCore
from sim.experiment.config import RunConfig
from sim.experiment.digest import code_digest
from sim.experiment.inputs import Inputs
from sim.experiment.lacks import There, check
from sim.experiment.room import Context, Room, budget_bytes, tokens_of
from sim.prices import AS_TRACED, HardwareProfile, ModelProfile, figures, shipped
from sim.prices.costs import Costs
from sim.prices.hardware import PolicyTime
from sim.results.timeline import Timeline
from sim.workload.history import TrainRequests
from sim.workload.passes import Pass, Selection, select
from sim.workload.signals import TraceSignals
from traces import Trace
from traces.kit import conf
from traces.kit.errors import UserError, one_of

if TYPE_CHECKING:
    from sim.machine import Machine

RUN_KEYS = ("chunks", "warmup", "limit", "measure", "seed", "bounds", "log", "timeline")
LONGEST_COPY_NS = 10**13
"""Of one expert: beyond it a link is a slip, and sums of times would leave 64 bits."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """The outputs of a fitted predictor for this cell's trace."""

    predictor: Predictor
    ids: NDArray[np.integer[Any]]
    """[N, L, K'], as policies.api.Signals.predicted gives them row by row."""
    sha256: str


@dataclass(frozen=True, slots=True)
class Cell:
    """All that determines a result."""

    config: RunConfig
    trace: Trace
    model: ModelProfile
    hardware: HardwareProfile
    costs: Costs
    setup: Setup
    room: Room
    selection: Selection
    predicted: Mapping[str, Predicted]
    """By name; what the policy declares of it is part of the key."""
    inputs: Inputs

    @property
    def total_expert_bytes(self) -> int:
        """Bytes of all experts of all layers."""
        return self.setup.n_experts * sum(self.setup.expert_bytes)

    @property
    def limit(self) -> int | None:
        """The configured limit, where it leaves a request out."""
        return self.config.limit if self.selection.left_out else None

    def policy(self, name: str | None = None, params: Mapping[str, Any] | None = None) -> Policy:
        """Build the configured policy, or another one, for this cell. UserError if something it needs is missing."""
        given = dict(self.config.policy) if name is None else {"name": name, **(params or {})}
        chosen = str(given.pop("name", None))
        if name is None and registry.find(chosen, "policy.name").clairvoyant:
            raise UserError(f"policy.name={chosen}: sees the future, so it is a reference row and not a choice")
        policy = registry.build(chosen, self.setup, given)
        train, validation = bool(self.selection.train), self.config.measure == "validation"
        there = There(self.config.trace, self.trace, self.predicted.keys(), train, validation)
        check(policy, there, lambda other: registry.build(chosen, self.setup, {**given, **other}))
        if policy.wants_history():
            policy.fit(TrainRequests(self.trace, self.selection.train, policy.needs()))
        return policy

    def core(self, policy: Policy, *, setup: Setup | None = None, record: bool = False) -> Core:
        """A fresh core for a policy of this cell, with the signals that the policy declares."""
        core_type = RecordingCore if record else Core
        return core_type(policy, setup or self.setup, self.signals(policy))

    def signals(self, policy: Policy) -> TraceSignals:
        """The trace's signals and the predictors' outputs, as far as the policy declares them."""
        ids = {name: found.ids for name, found in self.predicted.items()}
        return TraceSignals(self.trace, policy.needs(), ids, policy.predictors())

    def facts(self, policy: Policy) -> dict[str, Any]:
        """What is known of the predictors that the policy reads, by name."""
        names = sorted(policy.predictors() & self.predicted.keys())
        known = {name: self.predicted[name] for name in names}
        return {
            name: {"sha256": it.sha256, "stride": it.predictor.stride, "top_k": it.predictor.top_k}
            | dict(it.predictor.facts)
            for name, it in known.items()
        }

    def machine(
        self,
        core: Core,
        progress: Callable[[int], None] | None = None,
        timeline: Timeline | None = None,
        *,
        charged: bool = True,
    ) -> Machine:
        """The simulated machine of this cell's hardware; ``timeline`` is told what it does when.

        ``charged``: the policy's own time is, where the profile has one; a reference row's is not.
        """
        from sim.machine import Machine  # and SimPy, which a real machine may lack

        link, host = self.hardware.link, self.hardware.host
        return Machine(
            core,
            self.costs,
            depth=link.depth,
            predictor_threads=host.predictor_threads,
            progress=progress,
            timeline=timeline,
            policy_ns=self.policy_time(core.policy.name).ns() if charged else (0, 0),
        )

    def policy_time(self, name: str) -> PolicyTime:
        """What this cell's hardware charges for a policy's own decisions; 0 where it says nothing of the policy."""
        return self.hardware.software.policy_us.get(name) or PolicyTime()

    def passes(self, requests: Sequence[int]) -> Iterator[Pass]:
        """The forward passes of this cell's workload."""
        return iter(self.inputs.passes(self.trace, self.config.workload["batch"], requests))

    def changed(self, group: str) -> list[str]:
        """Keys of a model or machine in which it differs from the shipped profile of its name; [] if there is none."""
        given: Mapping[str, Any] = getattr(self.config, group)
        if given.get("name") == AS_TRACED:
            return ["dtype"] if self.model.shapes_known and given["dtype"] not in (None, self._own_dtype()) else []
        try:
            usual = figures(shipped(group, str(given.get("name"))))
            return sorted(_differences(_charging(usual), _charging(figures(given))))
        except UserError:
            return []

    def _own_dtype(self) -> str:
        return str(shipped("model", self.model.name)["dtype"])

    def resolved(self) -> dict[str, Any]:
        """What the result depends on, but for the code: the trace by hash, everything else by value."""
        return {
            "trace": self.trace.sha256,
            "policy": registry.normal(self.config.policy),
            "model": figures(asdict(self.model)),
            "dtype": self.costs.dtype,
            "hardware": _charging(_plain(figures(asdict(self.hardware)))),
            "workload": dict(self.config.workload),
            "predictors": self._declared(),
            "budget_bytes": self.setup.budget,
            **{key: getattr(self.config, key) for key in RUN_KEYS},
            "limit": self.limit,
        }

    def _declared(self) -> dict[str, str]:
        """Hashes of the predictors that the configured policy reads."""
        if not self.predicted:
            return {}
        given = dict(self.config.policy)
        names = registry.build(str(given.pop("name")), self.setup, given).predictors()
        return {name: self.predicted[name].sha256 for name in sorted(names & self.predicted.keys())}

    def key(self, resolved: Mapping[str, Any] | None = None, *, shared: bool = False) -> str:
        """The cell's address: a hash of the resolved configuration and of the code; ``shared`` by all policies."""
        code = code_digest(None if shared else str(self.config.policy["name"]))
        content = {"resolved": resolved or self.resolved(), "code": code}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def make_cell(config: RunConfig, inputs: Inputs | None = None) -> Cell:
    """Open and check everything that a configuration names. UserError for the first thing that does not fit.

    ``inputs``: what it has in common with other cells.
    """
    inputs = inputs or Inputs()
    trace = inputs.trace(find_trace(config.trace))
    model, dtype = _model(config, trace)
    for key, ours, its in (
        ("layers", model.moe_layers, trace.L),
        ("experts", model.experts, trace.E),
        ("top_k", model.top_k, trace.K),
    ):
        if ours != its:
            raise UserError(
                f"model={model.name}: has {key} {ours}, trace={config.trace} has {its};"
                " a trace is priced only as a model of its own routing shape"
            )
    hardware = HardwareProfile.from_dict(config.hardware)
    costs = Costs(model, hardware, dtype)
    # A predictor was fitted on the train requests, those for validation among them.
    predicted = find_predicted(trace) if config.measure == "test" else {}
    chosen = select(trace, seed=config.seed, limit=config.limit, warmup=config.warmup, measure=config.measure)
    served = (trace.requests[request] for request in (*chosen.warmup, *chosen.measured))
    room = Room.of(model, hardware, Context.of(tokens_of(served), config.workload["batch"]))
    setup = make_setup(config, costs, hardware, room, trace.E, trace.K, predicted)
    return Cell(config, trace, model, hardware, costs, setup, room, chosen, predicted, inputs)


def make_setup(
    config: RunConfig,
    costs: Costs,
    hardware: HardwareProfile,
    room: Room,
    n_experts: int,
    top_k: int,
    predicted: Mapping[str, Predicted],
) -> Setup:
    """What the policy is to know of model and machine. UserError for a budget or a cut that cannot be."""
    total = n_experts * sum(costs.expert_bytes)
    smallest = min(costs.expert_bytes)
    if config.chunks > smallest:
        raise UserError(f"chunks={config.chunks}: at most the bytes of one expert, {smallest}")
    setup = Setup(
        n_layers=len(costs.expert_bytes),
        n_experts=n_experts,
        top_k=top_k,
        expert_bytes=costs.expert_bytes,
        chunks=config.chunks,
        budget=budget_bytes(config.budget, total, room, hardware.name),
        costs=costs,
        seed=config.seed,
        predictors={name: found.predictor for name, found in predicted.items()},
        predictor_threads=hardware.host.predictor_threads,
    )
    if costs.copy_ns(max(costs.expert_bytes)) > LONGEST_COPY_NS:
        figures = (
            f"h2d_gb_per_s={float(hardware.link.h2d_gb_per_s):g}, overhead_us={float(hardware.link.overhead_us):g}"
        )
        raise UserError(f"hardware.link ({figures}): the copy of an expert takes hours; allowed: up to 10,000 s")
    return setup


def find_predicted(trace: Trace) -> Mapping[str, Predicted]:
    """The outputs of fitted predictors that lie beside a trace, by name."""
    found = {}
    for name, outputs in trace.predicted.items():
        about = outputs.about
        facts = {"kind": about.kind, "input": about.input, "accuracy": dict(about.accuracy), "fit": dict(about.fit)}
        predictor = Predictor(name, about.stride, about.top_k, facts)
        found[name] = Predicted(predictor, np.asarray(outputs.expert_ids), outputs.sha256)
    return found


def find_trace(name: str) -> Path:
    """The folder of a shipped trace's name, or the path given. UserError with the names there are."""
    if name == "sample":
        return Path(str(files("traces") / "sample"))
    if not name or not Path(name).is_dir():
        raise UserError(f"trace={name}: no such trace; allowed: sample, or the folder of a trace")
    return Path(name)


def _model(config: RunConfig, trace: Trace) -> tuple[ModelProfile, str | None]:
    if config.model.get("name") != AS_TRACED:
        return ModelProfile.from_dict(config.model), None
    if set(config.model) != {"name", "dtype"}:
        raise UserError(f"model={AS_TRACED}: has the keys {one_of(config.model)}; allowed: name, dtype")
    dtype = config.model["dtype"]
    if dtype is not None and not isinstance(dtype, str):
        raise UserError(f"model.dtype={dtype}: a text or null")
    name = trace.manifest.priced_as or _named(trace)
    if name is None:
        return ModelProfile.from_manifest(asdict(trace.manifest.model)), dtype
    return ModelProfile.from_dict({**shipped("model", name), **({} if dtype is None else {"dtype": dtype})}), None


def _named(trace: Trace) -> str | None:
    """The shipped model that a trace without sizes of its own says it is of: by its name here or at its source."""
    model = trace.manifest.model
    if model.expert_bytes is not None:
        return None
    return _shipped_models().get(model.name)


@cache
def _shipped_models() -> dict[str, str]:
    """The models of ``conf/model``, by their names and by those that they have where they are published."""
    names = sorted(conf.names("model") - {AS_TRACED})
    return {str(shipped("model", name)["source"]).split()[0]: name for name in names} | {name: name for name in names}


def _differences(ours: Mapping[str, Any], given: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key in {*ours, *given}:
        left, right = ours.get(key), given.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            yield from _differences(left, right, f"{prefix}{key}.")
        elif left != right:
            yield f"{prefix}{key}"


def _charging(profile: Mapping[str, Any]) -> dict[str, Any]:
    """A profile without what charges nothing for a policy's decisions: to charge 0 is the same cell as not to."""
    if "software" not in profile:  # a model's
        return dict(profile)
    software = dict(profile["software"])
    own = software.pop("policy_us", {})
    charged = {name: us for name, us in own.items() if any(Fraction(str(figure)) for figure in us.values())}
    return dict(profile) | {"software": software | ({"policy_us": charged} if charged else {})}


def _plain(value: Any) -> Any:
    """Fractions of a profile as exact text, for JSON."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
