"""Prompts that a model is to continue under a policy: all that is checked before it runs, the run, what it leaves."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch

from policies.predictors.saved import Fitted
from policies.predictors.saved import load as load_predictor
from real.run.answer import text_of
from real.run.asked import Asked, decoding_of, jobs_of
from real.run.choosing import stopper
from real.run.context import check_context
from real.run.folder import Session, write_trace
from real.run.session import facts_of, find_history, prepared, serve, there
from real.run.words import Generation
from real.runtime.generate import Served
from real.runtime.host import Host
from real.runtime.live import Live
from real.runtime.machine import Machine
from real.runtime.models import Where
from real.runtime.offloaded import Offloaded
from real.runtime.runner import DeviceRun, depth_of
from sim.core.core import Core
from sim.core.log import replay
from sim.experiment.cell import make_cell, policy_of
from sim.experiment.config import RunConfig
from sim.prices import HardwareProfile
from traces import Trace
from traces.kit.errors import UserError
from traces.models.load import Loaded, end_tokens
from traces.prompts.jobs import Job


@dataclass(eq=False)
class Model:
    """A checkpoint whose experts wait in host memory, the rest on the device; made by :func:`real.load`."""

    loaded: Loaded
    offloaded: Offloaded
    where: Where
    words: tuple[str, ...] = ()
    """As a command names it."""
    busy: threading.Lock = field(default_factory=threading.Lock, repr=False)
    """Held while it generates."""

    def __post_init__(self) -> None:
        self.offloaded.kv_bytes_per_token()  # while nobody runs it: a pass of another would be in the middle of theirs

    @property
    def tokenizer(self) -> Any:
        return self.loaded.tokenizer

    @classmethod
    def open(cls, name: str, dtype: str, where: Where, words: Sequence[str] = ()) -> Model:
        """Load it. UserError."""
        loaded = where.load(name, dtype)
        return cls(loaded, where.put(loaded.model), where, tuple(words))


class Serving:
    """A run that is ready to begin. UserError for what can be known to be wrong before.

    ``seed``: of what is drawn; ``permuted``: it permutes the prompts as well. ``history_given``: whether the user has
    said whose requests are learned from.
    """

    def __init__(
        self,
        config: RunConfig,
        model: Model,
        asked: Asked,
        how: Generation,
        predictor: str = "",
        *,
        permuted: bool = False,
        history_given: bool = False,
    ) -> None:
        if config.measure != "test":
            raise UserError(f"measure={config.measure}: prompts are measured, no recorded requests; allowed: test")
        self.model, self.asked, self.how = model, asked, how
        jobs, self.notes = jobs_of(asked, how, model.loaded, config.seed)
        depth_of(HardwareProfile.from_dict(config.hardware))  # a slip is told at once
        self.places = list(range(len(jobs)))
        """Of each request, in the order in which they are served: its prompt's place among those asked."""
        if config.seed and permuted:
            self.places = np.random.default_rng(config.seed).permutation(len(jobs)).tolist()
        self.jobs: list[Job] = [jobs[place] for place in self.places]
        stops = stopper(how.stop, model.tokenizer)
        self.requests = [
            Served(number, job.ids, job.choose, job.new_tokens, stops=stops) for number, job in enumerate(self.jobs)
        ]
        fitted = [load_predictor(Path(predictor))] if predictor else []
        self.predictors: dict[str, Fitted] = {it.name: it for it in fitted}
        self.history: Trace | None = find_history(config, model.offloaded.moe, given=history_given)
        tokens, batch = [len(it.prompt) + it.new_tokens for it in self.requests], int(config.workload["batch"])
        self.config, setup = prepared(config, model.offloaded, self.name, self.predictors, tokens)
        policy_of(self.config.policy, setup, there(config, self.history, self.predictors))  # as here
        check_context(model.offloaded, setup.budget, tokens, batch, Host(model.where.host_memory))
        self.machine: Machine | None = None
        self._left: tuple[DeviceRun, Live] | None = None

    @property
    def name(self) -> str:
        return self.model.loaded.name

    def now(self) -> int:
        """Nanoseconds, of a clock of its own."""
        return time.perf_counter_ns()

    def run(self, tell: Callable[[Served], None], over: Callable[[], bool]) -> None:
        """Continue the prompts, on the thread that calls. Used once; see :func:`real.runtime.generate.generate`."""
        ends = end_tokens(self.model.loaded)
        self.model.offloaded.backend.enter()
        self._left = serve(
            self.config,
            self.model.offloaded,
            self.name,
            self.requests,
            self.history,
            self.predictors,
            ends,
            tell,
            over,
            self._made,
        )

    def _made(self, machine: Machine) -> None:
        self.machine = machine

    def titles(self) -> list[str]:
        """Of each request, as a heading."""
        return [f"{number} of {len(self.jobs)}: {job.prompt.source}" for number, job in enumerate(self.jobs, start=1)]

    @property
    def begun(self) -> bool:
        """Whether a pass has ended."""
        return any(request.parts for request in self.requests)

    @property
    def interrupted(self) -> bool:
        """Whether it was ended before the requests had."""
        return any(request.end is None for request in self.requests)

    def session(self) -> Session:
        """What the run has left; the trace of it is made, and the result is told of that trace.

        Of a run that was ended early: of the passes that have ended, and the requests that have begun.
        """
        begun = [request for request in self.requests if request.parts]
        if self._left is None or not begun:
            raise UserError("no pass has ended: there is nothing to tell of")
        run, shown = self._left
        setup, loaded, model = run.core.setup, self.model.loaded, self.model.offloaded
        fresh = policy_of(self.config.policy, setup, there(self.config, self.history, self.predictors))
        with torch.inference_mode():
            shown.keep_all()
        digest = replay(run.core.log, Core(fresh, setup, shown.signals(fresh)))
        settings = decoding_of(self.how, self.config.seed).settings(loaded.tokenizer) | self.how.drawn()
        origins = [job.prompt.source for job in self.jobs[: len(begun)]]
        made = Path(mkdtemp(prefix="moe-offload-"))
        with ExitStack() as undo:
            undo.callback(rmtree, made, ignore_errors=True)
            write_trace(made / "trace", shown, begun, loaded, model, self.asked, settings, origins)
            # budget=auto is what it was here (prepared): the trace that was made asks for less context.
            config = replace(self.config, trace=str(made / "trace"), bounds=False, warmup=0, limit=None, seed=0)
            cell = make_cell(config)
            undo.pop_all()
        about = facts_of(model, run, "auto", "of the model", digest) | {
            "history": None if self.history is None else self.history.sha256,
            "predictors": {it.name: it.sha256 for it in self.predictors.values()},
        }
        if self.interrupted:
            about["interrupted"] = f"{len(begun)} of {len(self.requests)} requests had begun"
        texts = tuple(text_of(request, loaded.tokenizer, self.how.stop) for request in begun)
        session = Session(cell, run, about, texts, made, self.history)
        weakref.finalize(session, rmtree, made, ignore_errors=True)
        return session
