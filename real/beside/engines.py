"""The engines, each as its user would have it: loaded, warmed up, and asked to continue the same prompts greedily."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from real.run.session import find_history, serve
from real.runtime.generate import Served
from real.runtime.host import Host, trim
from real.runtime.models import Where
from real.runtime.offloaded import Offloaded, accelerated, resident
from sim.experiment.config import RunConfig
from traces.kit.errors import UserError
from traces.models.devices import device_of
from traces.models.load import load
from traces.prompts.jobs import greedy

LIBRARY = "resident"
OFFLOADS = ("cpu_offload", "disk_offload")
OURS = "ours"
ENGINES = (LIBRARY, *OFFLOADS, OURS)


@dataclass
class Answer:
    """One prompt's: its tokens, and when each of them was chosen, ns; ``began``: when it was asked."""

    began: int
    at: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Asked:
    """What every engine is asked: each prompt ``repeat`` times over, after the first of them once as a warm-up."""

    prompts: Sequence[Sequence[int]]
    new_tokens: int
    repeat: int

    def orders(self) -> Iterator[Sequence[int]]:
        """The prompts as they are asked, the warm-up first."""
        yield self.prompts[0]
        for _ in range(self.repeat):
            yield from self.prompts


Engine = Callable[[Asked], list[Answer]]
"""Answers in the order in which they were asked, the warm-up's first."""


@dataclass(frozen=True)
class Subject:
    """The model, and on what it is run. ``weights``: auto, a checkpoint's, or random, of a shape with ``layers``."""

    model: str
    dtype: str
    weights: str
    layers: int | None
    where: Where

    @property
    def device(self) -> torch.device:
        return device_of(self.where.device)

    def offloaded(self) -> Offloaded:
        return self.where.open(self.model, self.dtype, self.weights, self.layers)


@contextmanager
def library(subject: Subject, engine: str, scratch: Path) -> Iterator[Engine]:
    """transformers' ``generate``: with all weights on the device, or under one of accelerate's offloads.

    Of random weights those of the runtime's own store, from which they are copied. UserError where it cannot be had.
    """
    if engine in OFFLOADS:
        _accelerate()
    with ExitStack() as undo:
        if subject.weights == "random":
            model = undo.enter_context(_drawn(subject, engine))
        else:
            model = load(subject.model, subject.dtype, str(subject.device) if engine == LIBRARY else "cpu").model
        if subject.weights != "random" and engine in OFFLOADS:
            _offload(model, engine, subject.device, scratch)
        yield lambda asked: [_continued(model, subject.device, prompt, asked.new_tokens) for prompt in asked.orders()]


def _accelerate() -> Any:
    try:
        import accelerate
    except ImportError:
        raise UserError("accelerate is not installed; allowed: pip install 'moe-offload-workbench[hf]'") from None
    return accelerate


def _offload(model: Any, engine: str, device: torch.device, scratch: Path) -> None:
    """Both leave the modules without weights, and give each its own for its forward pass alone: from the state that
    they keep in host memory, of which to a CPU nothing is copied, or as a copy of files that they have mapped."""
    if engine == "cpu_offload":
        _accelerate().cpu_offload(model, execution_device=device)
    else:
        _accelerate().disk_offload(model, str(scratch), execution_device=device)


@contextmanager
def _drawn(subject: Subject, engine: str) -> Iterator[Any]:
    if engine == "disk_offload":
        raise UserError("weights=random: are not written to a disk; allowed: a checkpoint")
    model = subject.offloaded()
    try:
        if engine != LIBRARY:
            Host(subject.where.host_memory).check(model.store.nbytes, "the experts, once more,")
        with (resident if engine == LIBRARY else accelerated)(model) as whole:
            yield whole
    finally:
        model.store.close()


class _Clock(BaseStreamer):
    """Notes when ``generate`` hands tokens over: the prompt, then each new one."""

    def __init__(self) -> None:
        self.at: list[int] = []

    def put(self, value: Any) -> None:
        self.at.append(time.perf_counter_ns())

    def end(self) -> None:
        pass


def _continued(model: Any, device: torch.device, prompt: Sequence[int], new_tokens: int) -> Answer:
    """As many tokens as are wanted: nothing that the model's own configuration says ends a text, or alters a score."""
    clock, answer = _Clock(), Answer(time.perf_counter_ns())
    make: Any = GenerationConfig
    model.generation_config = make(do_sample=False, max_new_tokens=new_tokens, pad_token_id=0)
    ids = torch.tensor([list(prompt)], device=device)
    with torch.inference_mode():
        made = model.generate(ids, attention_mask=torch.ones_like(ids), streamer=clock)
    answer.at, answer.tokens = clock.at[1:], made[0, len(prompt) :].tolist()
    return answer


@contextmanager
def ours(subject: Subject, config: RunConfig, note: Callable[[int], None]) -> Iterator[Engine]:
    """This runtime under a policy, whose cache goes on from prompt to prompt; ``note`` is told the bytes of its slots.

    UserError where policy, budget and model do not suit each other.
    """
    model = subject.offloaded()

    def engine(asked: Asked) -> list[Answer]:
        requests = [
            Served(number, list(prompt), greedy, asked.new_tokens) for number, prompt in enumerate(asked.orders())
        ]
        answers = [Answer(time.perf_counter_ns()) for _ in requests]

        def tell(request: Served) -> None:
            answer, now = answers[request.number], time.perf_counter_ns()
            answer.at.append(now)
            answer.tokens.append(request.made[-1])
            if request.end is not None and request.number + 1 < len(answers):
                answers[request.number + 1].began = now

        history = find_history(config, model.moe, given=False)
        run, _ = serve(config, model, subject.model, requests, history, tell=tell)
        note(run.machine.pool.allocated)
        return answers

    try:
        yield engine
    finally:
        model.store.close()


def settle() -> None:
    """Loading has ended: what the heap keeps of it is given back."""
    import gc

    gc.collect()
    trim()
