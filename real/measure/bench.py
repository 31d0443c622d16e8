"""What the steps share: the folder, the device, the sizes, the machine's profile so far, and the models in memory."""

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from policies import registry
from real.calibrate.overheads import draw
from real.measure.clock import Clock
from real.measure.record import Record, read_step
from real.runtime.models import Where
from real.runtime.offloaded import Offloaded
from real.runtime.recorded import run_forced
from real.validation.ran import runtime_digest
from real.words import one_run, read_profile
from sim.experiment.cell import Cell, Inputs, make_cell, make_policy
from sim.experiment.config import RunConfig
from sim.prices import shipped
from traces.calibrate.machine import describe
from traces.kit.errors import UserError
from traces.kit.strict import dump_json
from traces.kit.telling import say
from traces.kit.whole import writable, write_whole

MAIN, LINK, HOST, ARRIVALS = "main", "link", "host", "arrivals"
FALLBACK = "h200"
"""The published profile that policies are told of where copies could not be measured."""


@dataclass(frozen=True)
class Subject:
    """A model that is run, and on which routing. ``layers``: of a shape that conf/model has deeper."""

    model: str
    weights: str
    dtype: str
    trace: str
    limit: int | None
    warmup: int
    layers: int | None = None
    drawn: tuple[tuple[int, int], ...] = ()
    """Requests (prompt tokens, decode steps) of drawn routing; none: the trace is recorded."""

    def profile(self) -> dict[str, Any]:
        """Its sizes, as conf/model has them."""
        known = dict(shipped("model", self.model))
        return known | {"dtype": self.dtype} | ({"moe_layers": self.layers} if self.layers else {})


@dataclass(frozen=True)
class Size:
    """How large everything is."""

    main: Subject
    link: Subject
    shapes: tuple[str, ...]  # models of which one layer is timed
    grid: tuple[tuple[str, str], ...]  # (policy, budget) of the cells, the most telling first
    link_grid: tuple[tuple[str, str], ...]
    host_grid: tuple[tuple[str, str], ...]
    arrivals_grid: tuple[tuple[str, str], ...]
    arrivals: tuple[int, int]  # requests, and how many of them arrive in a second
    again: tuple[tuple[str, str], ...]
    largest: int  # MiB of a copy
    max_tokens: int
    max_context: int
    copies_s: float
    layers_s: float
    overhead_tokens: int
    new_tokens: int
    accelerate_tokens: int
    others: tuple[str, ...]  # engines that are not ours, each in a process: the disk offload would write all weights
    beside: tuple[tuple[str, str], ...]  # (policy, budget) of ours beside them


PROFILED = ("lru", "gate_ahead", "promoe", "fmoe")
HOSTING = tuple(name for name in ("fiddler", "split", "static_split") if name in registry.names())
"""They have experts computed on the host."""
HOST_LIMIT = 2
"""Requests of such a cell: prompts take seconds where the host computes whole layers of them."""
FULL = Size(
    Subject("olmoe_1b_7b", "random", "bfloat16", "sample", 4, 1),
    Subject("mixtral_8x7b", "random", "bfloat16", "link", None, 1, layers=4, drawn=((8, 4), (32, 24), (96, 24))),
    ("olmoe_1b_7b", "mixtral_8x7b"),
    grid=(("on_demand", "25%"), *((policy, budget) for budget in ("25%", "50%", "75%") for policy in PROFILED)),
    link_grid=(("on_demand", "25%"), ("lru", "25%"), ("lru", "75%")),
    host_grid=tuple((policy, budget) for budget in ("50%", "25%") for policy in HOSTING),
    arrivals_grid=(("lru", "50%"), ("fmoe", "50%")),
    arrivals=(12, 4),
    again=(("on_demand", "25%"), ("lru", "25%"), ("lru", "50%"), ("lru", "75%")),
    largest=128,
    max_tokens=512,
    max_context=2048,
    copies_s=40,
    layers_s=45,
    overhead_tokens=48,
    new_tokens=48,
    accelerate_tokens=4,
    others=("resident", "cpu_offload"),
    beside=(("lru_layer", "50%"), ("fiddler", "50%"), ("lru_layer", "25%")),
)
TINY = Size(
    Subject("tiny-moe", "auto", "float32", "sample", 1, 0),
    Subject("tiny-moe", "auto", "float32", "link", None, 1, drawn=((4, 2), (8, 4))),
    ("tiny-moe",),
    FULL.grid,
    FULL.link_grid,
    FULL.host_grid,
    FULL.arrivals_grid[:1],
    (2, 20),
    FULL.again[:2],
    largest=1,
    max_tokens=16,
    max_context=128,
    copies_s=4,
    layers_s=6,
    overhead_tokens=4,
    new_tokens=6,
    accelerate_tokens=3,
    others=("resident",),
    beside=(("lru_layer", "50%"),),
)


@dataclass
class Bench:
    """See the module."""

    folder: Path
    device: torch.device
    clock: Clock
    rehearse: bool = False
    host_memory: int | None = None  # what the user says that the host has for the model, in bytes
    inputs: Inputs = field(default_factory=lambda: Inputs(keep=True))
    longest: dict[str, float] = field(default_factory=dict)  # seconds of the longest cell so far, by subject
    _models: dict[str, Offloaded] = field(default_factory=dict)

    def open(self, steps: Sequence[str]) -> None:
        """Make the folder, or go on in it. UserError where it cannot be written or is of another machine."""
        self.size = TINY if self.rehearse else FULL
        about = describe(self.device)
        about = {key: about[key] for key in ("device", "host", "python", "torch", "transformers")}
        about |= {"size": "tiny" if self.size is TINY else "full", "code": runtime_digest()}
        with writable(f"out={self.folder}"):
            for inner in ("", "cells", "link", "host", "arrivals", "traces"):
                (self.folder / inner).mkdir(parents=True, exist_ok=True)
            self.record = Record(self.folder, about, list(steps))

    def write(self, name: str, content: Any) -> None:
        """A step's result as NAME.json."""
        write_whole(self.folder / f"{name}.json", dump_json(content))

    def read(self, name: str) -> Any:
        """A step's result; None where there is none yet. UserError if it is damaged."""
        return read_step(self.folder, name)

    def profile(self) -> Mapping[str, Any]:
        """The machine as measured so far, without the runtime's overheads; else a published one."""
        path = self.folder / "profile.yaml"
        return read_profile(path) if path.exists() else dict(shipped("hardware", FALLBACK))

    def subject(self, which: str) -> Subject:
        main = self.size.main
        if which == HOST:
            return replace(main, limit=HOST_LIMIT if main.limit is None else min(main.limit, HOST_LIMIT))
        if which == ARRIVALS:
            return replace(main, limit=self.size.arrivals[0])
        return self.size.link if which == LINK else main

    def model(self, which: str) -> Offloaded:
        """A subject's model, loaded once and warmed up; another is dropped where there is no room for both."""
        if which not in self._models:
            same = next((kept for other, kept in self._models.items() if self._alike(which, other)), None)
            self._models[which] = same or self._load(which)
            self._warm(which)
        return self._models[which]

    def _alike(self, which: str, other: str) -> bool:
        a, b = self.subject(which), self.subject(other)
        return (a.model, a.weights, a.dtype, a.layers) == (b.model, b.weights, b.dtype, b.layers)

    def _load(self, which: str) -> Offloaded:
        subject = self.subject(which)
        name, layers = subject.model, subject.profile().get("moe_layers")
        where = Where(str(self.device), self.host_memory)
        try:
            return where.open(name, subject.dtype, subject.weights, layers)
        except UserError:
            if not self._models:
                raise
            say(f"no room for {name} beside {next(iter(self._models))}, which is dropped")
            self.drop()
        return where.open(name, subject.dtype, subject.weights, layers)

    def _warm(self, which: str) -> None:
        """The first request, unmeasured: what a device does once (its kernels, its memory) is in no cell."""
        workload = {"name": "closed_loop", "batch": 1}
        cell = self.cell(which, "lru", "25%", limit=1, warmup=0, workload=workload)
        run_forced(cell, self._models[which], make_policy(cell))

    def drop(self) -> None:
        """Give the models' memory back."""
        for model in self._models.values():
            model.store.close()
        self._models.clear()
        gc.collect()
        self.empty_cache()

    def empty_cache(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def config(self, which: str, policy: str, budget: str, **more: Any) -> RunConfig:
        """One run of a subject; the trace by the name under which it lies in the folder."""
        subject = self.subject(which)
        own: dict[str, Any] = {"warmup": subject.warmup, "limit": subject.limit} | more
        if which == ARRIVALS and "workload" not in own:
            own["workload"] = dict(shipped("workload", "online")) | {"rate": self.size.arrivals[1]}
        return one_run(policy, budget, subject.profile(), self.profile(), subject.trace, **own)

    def cell(self, which: str, policy: str, budget: str, **more: Any) -> Cell:
        """The same, made real."""
        config = self.config(which, policy, budget, **more)
        return make_cell(replace(config, trace=self.trace(which)), self.inputs)

    def trace(self, which: str) -> str:
        """Where a subject's routing is: drawn on the spot where it is to be drawn."""
        subject = self.subject(which)
        if not subject.drawn:
            return subject.trace
        path, profile = self.folder / "traces" / subject.trace, subject.profile()
        if not path.exists():
            sizes = profile["moe_layers"], profile["experts"], profile["top_k"]
            draw(path, sizes, f"{subject.model}_shape", subject.drawn, 1)
        return str(path)
