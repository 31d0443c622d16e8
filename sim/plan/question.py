"""One question: a model on one machine. From words to configurations, and what memory says before anything is run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from policies import registry
from sim.experiment.budget import Room
from sim.experiment.cell import most_held
from sim.experiment.compose import read_config
from sim.experiment.config import RunConfig
from sim.experiment.declared import declared
from sim.plan.cells import Figures, Found
from sim.plan.routing import Lengths
from sim.prices import AS_TRACED, HardwareProfile, ModelProfile
from sim.prices.chosen import model_of
from sim.prices.placement import Spread, spread_of
from sim.results.compare.target import Target
from traces import Trace
from traces.kit.errors import UserError

HERE = "here"
"""As a machine: this one, as ``python -m traces calibrate out=here.yaml`` measured it."""


@dataclass(frozen=True)
class Question:
    """What is asked, of one machine."""

    words: tuple[str, ...]
    """Of ``python -m sim run``: model, hardware, host, batch and what else was given."""
    base: RunConfig
    model: ModelProfile
    dtype: str
    hardware: HardwareProfile
    goal: Target | None
    context: int
    batch: int
    host_memory: int | None
    lengths: Lengths | None
    """Of the requests that are drawn; None where a trace was given."""
    room: Room = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "room", Room.of(self.model, self.hardware, [self.context] * self.batch, self.batch))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Bytes of one expert, by layer."""
        return self.model.priced(self.dtype)

    @property
    def total(self) -> int:
        """Bytes of all experts."""
        return self.model.experts * sum(self.sizes)

    @property
    def spread(self) -> Spread:
        """On which of the GPUs experts lie."""
        return spread_of(self.base.placement, self.hardware, self.model)

    @property
    def capacity(self) -> int:
        """Bytes that all GPUs have for experts together: each has the room of the one with the dense part."""
        return self.hardware.gpus * self.room.bytes

    @property
    def most(self) -> int:
        """The budget with which all experts are where they can be: on one GPU all their bytes; of several, the one that
        is to hold the most has room for it."""
        return most_held(self.sizes, self.model.experts, self.spread)

    @property
    def least(self) -> int:
        """The budget below which nothing runs: one expert, on each GPU that has experts of its own."""
        return max(self.sizes) * self.spread.pools * self.spread.alike

    @property
    def unified(self) -> bool:
        """Whether CPU and GPU share one memory: experts then come from a disk, and the host holds none."""
        return _unified(self.hardware)

    @property
    def missing(self) -> int:
        """Bytes of host memory that the experts lack, all of which lie there."""
        return 0 if self.host_memory is None or self.unified else max(0, self.total - self.host_memory)

    @property
    def from_disk(self) -> int:
        """Bytes of experts that the host has no memory for, and reads from the machine's disk; 0 where it cannot."""
        fits = self.hardware.disk is not None and self.hardware.gpus == 1
        return self.missing if fits and self.host_memory is not None and self.host_memory >= max(self.sizes) else 0

    @property
    def run_words(self) -> list[str]:
        """Of ``python -m sim run``, without policy, budget and trace."""
        return [*self.words, *([f"host_memory={self.host_memory}"] if self.from_disk else [])]

    @property
    def possible(self) -> bool:
        """Whether anything can be run: an expert has room, and the host has all of them, in some dtype, or a disk."""
        if self.from_disk and self.capacity >= self.least:
            return True
        smallest = self.in_dtype(self.narrower[-1]) if self.missing and self.narrower else self
        return not smallest.missing and smallest.capacity >= smallest.least

    @property
    def narrower(self) -> list[str]:
        """Other dtypes in which the experts are smaller, the largest first: other weights, so another output."""
        if self.base.model["name"] == AS_TRACED:
            return []
        names = [*self.model.expert_bytes, *(self.model.expert_bytes_per_layer or {})]
        smaller = {name: sum(self.model.priced(name)) for name in names}
        return sorted((n for n in names if smaller[n] < sum(self.sizes)), key=lambda name: -smaller[name])

    def in_dtype(self, dtype: str) -> "Question":
        """The same question of experts in another dtype."""
        words = (*(word for word in self.words if not word.startswith("model.dtype=")), f"model.dtype={dtype}")
        base = replace(self.base, model={**self.base.model, "dtype": dtype})
        return replace(self, words=words, base=base, dtype=dtype, model=ModelProfile.from_dict(base.model))

    def with_hardware(self, changes: Mapping[str, Any]) -> "Question":
        """The same question of a machine that differs in some figures, by key, or by group and key."""
        hardware = dict(self.base.hardware)
        for group, values in changes.items():
            hardware[group] = {**hardware[group], **values} if isinstance(values, Mapping) else values
        return replace(self, base=replace(self.base, hardware=hardware), hardware=HardwareProfile.from_dict(hardware))

    def cell(self, policy: str, budget: int, trace: str, seed: int = 0) -> RunConfig:
        """The configuration of a run."""
        held = self.host_memory if self.from_disk else None
        return replace(self.base, policy=settings(policy), budget=budget, trace=trace, seed=seed, host_memory=held)


def _unified(hardware: HardwareProfile) -> bool:
    return hardware.host.cpu_tflops is None and hardware.host.dram_gb_per_s == hardware.gpu.hbm_gb_per_s


@cache
def settings(preset: str) -> Mapping[str, Any]:
    """The policy of a file of conf/policy. UserError for no such name."""
    return read_config([f"policy={preset}", "budget=1GB"]).policy


def lossless(preset: str) -> bool:
    """Whether its output is the model's own."""
    return registry.find(str(settings(preset)["name"])).lossless


@cache
def reads(preset: str) -> frozenset[str]:
    """The signals that it reads."""
    return frozenset(map(str, declared(settings(preset)).needs()))


def ask(
    hardware: str,
    model: str,
    trace: Trace | None,
    goal: Target | None,
    *,
    context: int | None,
    batch: int,
    host_memory: int | None,
    rest: Sequence[str],
) -> Question:
    """The question that words ask of one machine. UserError for what no configuration is."""
    if hardware == HERE:
        hardware = "here.yaml"
        if not Path(hardware).is_file():
            way = "python -m traces calibrate out=here.yaml"
            raise UserError(f"hardware={HERE}: there is no {hardware}, what this machine measures: {way}")
    own = [f"model={model}"] if model else []
    for other in (word for word in rest if word.startswith("host=")):
        alone = [f"hardware={hardware}", *(word for word in rest if word != other)]
        if _unified(HardwareProfile.from_dict(read_config([*own, *alone, "policy=lru", "budget=1GB"]).hardware)):
            raise UserError(f"{other}: hardware={hardware} has one memory for CPU and GPU; allowed: without host=")
    words = (*own, f"hardware={hardware}", *rest, *([f"workload.batch={batch}"] if batch > 1 else []))
    # What is drawn has a request to begin with: of few tokens, a cold start would be most of what is seen.
    words = words if trace is not None else (*words, "warmup=1")
    base = read_config([*words, "policy=lru", "budget=1GB", "bounds=false"])
    machine = HardwareProfile.from_dict(base.hardware)
    if trace is None:
        if base.model["name"] == AS_TRACED:
            raise UserError(f"model={model}: is what a trace says; allowed: with trace=")
        profile, dtype = ModelProfile.from_dict(base.model), None
    else:
        profile, dtype = model_of(base.model, trace)
    held = 4096 if context is None else context
    if trace is not None:
        longest = max(request.prompt_tokens + request.output_tokens for request in trace.requests)
        if context is not None and context < longest:
            raise UserError(f"context={context}: the trace has a request of {longest} tokens; allowed: {longest}, more")
        held = longest if context is None else context
    spread_of(base.placement, machine, profile)  # refused here, if it cannot be
    return Question(
        words,
        base,
        profile,
        profile.dtype if dtype is None else dtype,
        machine,
        goal,
        held,
        batch,
        host_memory,
        Lengths.of(held, batch) if trace is None else None,
    )


def value(found: Found | None, question: Question) -> float | None:
    """The latency in ms that is asked about; None where the cell cannot be, or has none."""
    if not isinstance(found, Figures):
        return None
    goal = question.goal
    spread = found.latency_ms[goal.metric if goal else "tpot"]
    return None if spread is None else spread[goal.part if goal else "mean"]


def meets(found: Found | None, question: Question) -> bool:
    """Whether a cell meets the target."""
    ms = value(found, question)
    return question.goal is not None and ms is not None and ms <= question.goal.ms
