"""A tiny model with random weights, and passes over it, made in code: for checks of a device, without any file.

A backend that counts says how often a pass crosses between host and device, and waits for it.
"""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForCausalLM, OlmoeConfig

from policies.api import LayerEvent, Policy, Setup
from policies.lru import LRU
from real.runtime.backend import Backend, DeviceError, Staging, Ticket
from real.runtime.events import Feed
from real.runtime.generate import Served, generate
from real.runtime.live import Live
from real.runtime.machine import Machine
from real.runtime.offloaded import Offloaded
from real.runtime.runner import Runner, device_machine, running
from sim.check.synthetic import FREE, FlatHost
from sim.core.core import Core
from sim.core.log import replay
from sim.workload.passes import Pass, ordered_union
from sim.workload.signals import TraceSignals
from traces.kit.telling import in_short

L, E, K, WIDTH, VOCABULARY = 3, 8, 2, 128, 128
CHUNKS, DEPTH, WORKERS = 2, 2, 2
_AUTO: Any = AutoModelForCausalLM


def tiny_model(device: torch.device, dtype: torch.dtype = torch.bfloat16, *, exact: bool = True) -> Offloaded:
    """OLMoE's architecture with L layers of E experts, top-K; the same weights each time."""
    config = OlmoeConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=L,
        num_attention_heads=4,
        num_key_value_heads=4,
        num_experts=E,
        num_experts_per_tok=K,
        max_position_embeddings=64,
        initializer_range=0.1,
        pad_token_id=None,
        eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _AUTO.from_config(config, dtype=dtype).eval()
    return Offloaded(model, device, exact=exact)


@dataclass(frozen=True)
class Ran:
    """What passes have left: their logits [rows, V] on the host, the machine, and whether the log's replay agrees."""

    logits: list[NDArray[Any]]
    machine: Machine
    agrees: bool

    def same(self, other: Ran) -> bool:
        """To the last bit."""
        return len(self.logits) == len(other.logits) and all(map(np.array_equal, self.logits, other.logits))


class Shared(LRU):
    """The host computes some experts, whatever is in memory: every third, by number and event."""

    def place(self, event: LayerEvent) -> Sequence[int]:
        return [x for i, x in enumerate(event.demand) if event.tokens[i] and (x + len(event.demand)) % 3 == 0]


class Drawn(Feed):
    """The feed of a routing that is drawn: two requests, a prefill each, decode passes of both and then of one.

    From the second decode pass of one on they choose the same experts: with room for these there are no misses.
    """

    def __init__(self, seed: int = 0, alone: int = 4) -> None:
        random, first = np.random.default_rng(seed), 0
        self.passes: list[Pass] = []
        self._ids: dict[int, NDArray[np.int64]] = {}
        shapes = [(True, (0,), 5), (True, (1,), 3), *[(False, (0, 1), 2)] * 2, *[(False, (0,), 1)] * alone]
        for number, (prefill, requests, rows) in enumerate(shapes):
            ids = random.random((rows, L, E)).argsort(axis=-1)[..., :K]
            if number > 4:
                ids = self._ids[id(self.passes[4])]
            each = rows // len(requests)
            parts = [(first + i * each, each) for i in range(len(requests))]
            pairs = [ordered_union(ids[:, layer] + layer * E, L * E) for layer in range(L)]
            demand, tokens = (list(column) for column in zip(*pairs, strict=True))
            step = Pass(prefill, requests, parts, rows, rows, rows, demand, tokens)
            self.passes.append(step)
            self._ids[id(step)], first = ids, first + rows

    def routing(self) -> NDArray[np.int64]:
        return self._ids[id(self.step)]


def _machine(model: Offloaded, make: type[Policy], held: int) -> Machine:
    """A machine with room for so many experts."""
    nbytes = model.store.layout.nbytes
    setup = Setup(L, E, K, (nbytes,) * L, CHUNKS, held * nbytes, FREE, host=FlatHost(1, None, WORKERS))
    return device_machine(model, make(setup), TraceSignals(None, ()), DEPTH)


def _ran(machine: Machine, logits: list[NDArray[Any]]) -> Ran:
    """What a run that has ended left."""
    machine.core.accounts.check()
    setup, make = machine.core.setup, type(machine.core.policy)
    fresh = Core(make(setup), setup, TraceSignals(None, ()))
    return Ran(logits, machine, replay(machine.core.log, fresh) == machine.core.digest())


def follow(
    model: Offloaded, make: type[Policy], held: int, watch: Callable[[Runner], None] = lambda runner: None
) -> Ran:
    """Drawn passes under a policy. ``watch(runner)`` is called before the first of them."""
    feed, logits = Drawn(), list[NDArray[Any]]()
    machine = _machine(model, make, held)
    with running(model, machine, feed) as runner:
        watch(runner)
        for number, step in enumerate(feed.passes):
            tokens = [(31 * number + 7 * i) % VOCABULARY for i in range(step.rows)]
            logits.append(runner.forward(step, tokens, lambda scores: machine.read(scores)[0].copy()))
        runner.finish()
    return _ran(machine, logits)


def speak(
    model: Offloaded, make: type[Policy], held: int, prompts: Sequence[Sequence[int]] = ((5, 9, 100), (77,) * 6, (8,))
) -> Ran:
    """Prompts continued greedily, with the model's own routing, two at a time."""
    machine, live, logits = _machine(model, make, held), Live(model.moe, ()), list[NDArray[Any]]()

    def choose(scores: Tensor) -> int:
        logits.append(machine.read(scores)[0].copy())
        return int(logits[-1].argmax())

    requests = [Served(i, list(prompt), choose, 4) for i, prompt in enumerate(prompts)]
    with running(model, machine, live) as runner:
        generate(runner, live, requests, 2, ())
        runner.finish()
    return _ran(machine, logits)


class _Counted(Ticket):
    def __init__(self, ticket: Ticket, count: Counting) -> None:
        self._ticket, self._count = ticket, count

    def done(self) -> bool:
        return self._ticket.done()

    def wait(self) -> None:
        self._count.note("waits")
        self._ticket.wait()


class Counting(Backend):
    """Another backend, whose crossings are counted in ``seen``: `uploads`, `downloads` and `waits` of the thread that
    runs the model. The copy thread's are not: it has nothing else to do than to wait."""

    def __init__(self, backend: Backend) -> None:
        self.backend, self.device = backend, backend.device
        self.seen: Counter[str] = Counter()
        self._thread = threading.get_ident()

    def note(self, what: str) -> None:
        if threading.get_ident() == self._thread:
            self.seen[what] += 1

    def enter(self) -> None:
        self.backend.enter()

    def allocated(self) -> int:
        return self.backend.allocated()

    def start_copy(self, target: Tensor, source: Tensor) -> Ticket:
        return _Counted(self.backend.start_copy(target, source), self)

    def upload(self, host: Tensor) -> Tensor:
        self.note("uploads")
        return self.backend.upload(host)

    def download(self, *tensors: Tensor) -> list[NDArray[Any]]:
        self.note("downloads")
        return self.backend.download(*tensors)

    def staging(self) -> Staging:
        return self.backend.staging()

    def mark(self) -> Ticket:
        return _Counted(self.backend.mark(), self)

    def synchronize(self) -> None:
        self.note("waits")
        self.backend.synchronize()


@contextmanager
def no_sync(device: torch.device) -> Iterator[None]:
    """Within it, a call that waits for the device in torch's own ways (a blocking copy, a value that Python asks for)
    is an error on a GPU: what waits for an event is not. On a CPU nothing is noticed."""
    if device.type != "cuda":
        yield
        return

    def watch(mode: int | str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is a prototype, and does not see everything
            torch.cuda.set_sync_debug_mode(mode)

    before = torch.cuda.get_sync_debug_mode()
    watch("error")
    try:
        yield
    finally:
        watch(before)


def count_forced(device: torch.device, held: int) -> dict[str, int]:
    """Crossings of the last decode pass that follows a recorded routing; DeviceError where a layer waits otherwise."""
    model = tiny_model(device)
    model.backend = counting = Counting(model.backend)
    last = list[dict[str, int]]()

    def watch(runner: Runner) -> None:
        forward, event = runner.engine.forward, runner.run.event

        def strict(*args: Any) -> Tensor:
            with no_sync(counting.device):
                return event(*args)

        def counted(*args: Any) -> Tensor:
            counting.seen.clear()
            try:
                logits = forward(*args)
            except RuntimeError as error:
                raise DeviceError(f"a layer waits for the device: {in_short(error)}") from error
            last[:] = [dict(counting.seen)]
            return logits

        runner.engine.forward, runner.run.event = counted, strict  # type: ignore[method-assign, assignment]

    follow(model, LRU, held, watch)
    return last[0]
