"""Times of one layer of a model: its dense part, its experts on the device and on the CPU, the library's loop; the
experts' copies and the CPU's compute, both at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward

from traces.calibrate.pair import PAIRED, Pair
from traces.calibrate.plan import Part, Timed, Tried, measured
from traces.calibrate.tables import Rows, pooled_grid
from traces.calibrate.timing import Budget, Call, Clock, measure
from traces.models.families import cache_key
from traces.models.shapes import Block, build

NO_EXPERTS, GROUPED = "calibrate_no_experts", "grouped_mm"
CPU_EXPERTS_BYTES = 512 << 20  # of experts in turn, so that no cache holds them
BURST = 32  # experts launched in a row
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Grids:
    """Where a model is measured."""

    tokens: tuple[int, ...]
    contexts: tuple[int, ...]
    cpu_tokens: tuple[int, ...]
    threads: tuple[int, ...]

    @classmethod
    def up_to(cls, max_tokens: int, max_context: int) -> Grids:
        cores = len(os.sched_getaffinity(0))
        return cls(
            tokens=tuple(1 << i for i in range(max_tokens.bit_length())),
            contexts=tuple(c for c in (0, 128, 512, 2048, 8192, 32768) if c <= max_context),
            cpu_tokens=tuple(n for n in (1, 4, 16, 64) if n <= max_tokens),
            threads=tuple(sorted({1 << i for i in range(cores.bit_length()) if 1 << i <= cores} | {cores})),
        )

    @property
    def dense_tokens(self) -> tuple[int, ...]:
        """Every second number of tokens: a grid has many points."""
        return self.tokens[::2]

    @property
    def points(self) -> int:
        grid = len(self.dense_tokens) * len(self.contexts)
        on_cpu = (len(self.cpu_tokens) + PAIRED) * len(self.threads)
        return grid + 2 * len(self.tokens) + on_cpu + 2


class Layer:
    """One layer of a model with random weights, and all that is measured of it. Builds the model: seconds, memory."""

    def __init__(self, name: str, clock: Clock, dtype: str, grids: Grids) -> None:
        self.name, self.clock, self.dtype, self.grids = name, clock, dtype, grids
        self.block = build(name, clock.device, dtype)
        self.experts = Experts(self.block, clock.device)
        tokens = {"tokens": grids.tokens}
        rows, contexts = zip(*product(grids.dense_tokens, grids.contexts), strict=True)
        threads, on_cpu = zip(*product(grids.threads, grids.cpu_tokens), strict=True)
        self.dense = Part("dense", {"tokens": rows, "context": contexts}, partial(self._layer, NO_EXPERTS))
        self.expert = Part("expert", tokens, lambda n: partial(clock.device_ns, self.experts.one(n)))
        self.grouped = Part("grouped", tokens, lambda n: partial(clock.device_ns, self.experts.top_k(n)))
        self.burst = Part("launch", {}, self._burst)
        self.loop = Part("layer_overhead", {}, lambda: self._layer(GROUPED, 1, 0, wall=True))
        self.cpu = Part(
            "cpu_expert", {"threads": threads, "tokens": on_cpu}, self._on_cpu, falling=frozenset({"threads"})
        )
        self.pair = Pair(clock, expert_bytes(self.block.experts), grids.threads, lambda: self.cpu_experts.one(1))
        self.parts = (self.dense, self.expert, self.grouped, self.burst, self.loop, self.cpu, *self.pair.parts)

    def tried(self) -> list[Tried]:
        with torch.inference_mode(), _threads_kept():
            return [Tried(part) for part in self.parts]

    def measure(self, budget: Budget, say: Callable[[str], None]) -> dict[str, Any]:
        """The section `models.NAME` of a profile."""
        name, clock = self.name, self.clock
        with torch.inference_mode(), _threads_kept():
            dense = self._rows(self.dense, budget)
            say(f"{name}: dense part {dense.medians[0] / 1e3:.1f} us for one token")
            expert, grouped = (self._rows(part, budget) for part in (self.expert, self.grouped))
            (launch,) = measured(self.burst, budget)
            say(f"{name}: an expert {expert.medians[0] / 1e3:.1f} us, top-K grouped {grouped.medians[0] / 1e3:.1f} us")
            (wall,) = measured(self.loop, budget)
            # What a decode layer of the library's own loop takes longer than the work it gives to the device.
            device = measure(self._layer(GROUPED, 1, 0), 0) if clock.cuda else wall
            cpu = self._rows(self.cpu, budget)
            say(f"{name}: an expert on the CPU {min(cpu.medians) / 1e3:.1f} us at best")
            pair = self.pair.measure(budget, lambda said: say(f"{name}: {said}"))
        width = len(self.grids.contexts)
        medians = [dense.medians[i * width : (i + 1) * width] for i in range(len(self.grids.dense_tokens))]
        return {
            "shape": self.block.shape,
            "dtype": self.dtype,
            "dense": dense.columns([ns for row in pooled_grid(medians) for ns in row]),
            "expert": expert.columns(),
            "grouped": grouped.columns(),
            "cpu_expert": cpu.columns(cpu.medians),
            "pair": pair,
            "launch_ns": max(0, launch.median - expert.medians[0]) if clock.cuda else 0,
            "layer_overhead_ns": max(0, wall.median - device.median),
        }

    def _rows(self, part: Part, budget: Budget) -> Rows:
        return Rows(part.axes, measured(part, budget))

    def _burst(self) -> Timed:
        call = self.experts.one(1)
        return lambda n: self.clock.wall_ns(call, BURST * n) / BURST

    def _layer(self, experts: str, tokens: int, context: int, *, wall: bool = False) -> Timed:
        self.block.model.set_experts_implementation(experts)
        call = layer_call(self.block, self.clock.device, tokens, context)
        return partial(self.clock.wall_ns if wall else self.clock.device_ns, call)

    def _on_cpu(self, threads: int, tokens: int) -> Timed:
        """One expert on the CPU; its weights are there already."""
        torch.set_num_threads(threads)
        return partial(Clock(CPU).wall_ns, self.cpu_experts.one(tokens))

    @cached_property
    def cpu_experts(self) -> Experts:
        return Experts(self.block, CPU, _on_cpu(self.block.experts))


@contextmanager
def _threads_kept() -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Experts:
    """Calls of one layer's experts on random rows, other experts each time."""

    def __init__(self, block: Block, device: torch.device, module: Any = None) -> None:
        self.module, self.E, self.K = module or block.experts, block.shape["experts"], block.shape["top_k"]
        self.hidden, self.device = block.shape["hidden"], device
        self.dtype = self.module.down_proj.dtype

    def one(self, tokens: int) -> Call:
        """One expert on `tokens` rows: its two products and what is between them."""
        x, kept = self._rows(tokens), self.module.down_proj.shape[0]
        return lambda i: expert_forward(self.module, i % kept, x)

    def top_k(self, tokens: int) -> Call:
        """The library's grouped kernel on K experts, with `tokens` rows each."""
        x = self._rows(tokens)
        weights = torch.full((tokens, self.K), 1 / self.K, dtype=self.dtype, device=self.device)
        starts = [torch.arange(start, start + self.K, device=self.device) % self.E for start in range(self.E)]
        ids = [start.expand(tokens, self.K).contiguous() for start in starts]
        return lambda i: grouped_mm_experts_forward(self.module, x, ids[i * self.K % self.E], weights)

    def _rows(self, tokens: int) -> Tensor:
        return torch.randn(tokens, self.hidden, device=self.device).to(self.dtype)


def expert_forward(module: Any, expert: int, x: Tensor) -> Tensor:
    """One expert of a transformers experts module on x [n, D] -> [n, D], without its routing weight."""

    def product(x: Tensor, name: str) -> Tensor:
        weight = getattr(module, name)[expert]
        bias = getattr(module, f"{name}_bias")[expert] if module.has_bias else None
        return torch.nn.functional.linear(x, weight.T if module.is_transposed else weight, bias)

    gated = getattr(module, "has_gate", True)
    inner = product(x, "gate_up_proj" if gated else "up_proj")
    return product(module._apply_gate(inner) if gated else module.act_fn(inner), "down_proj")


def layer_call(block: Block, device: torch.device, tokens: int, context: int) -> Call:
    """The layer with the arguments the library itself gives it: `tokens` rows after `context` cached ones."""
    body = block.model.get_decoder() if hasattr(block.model, "get_decoder") else block.model.model
    vocabulary = block.model.config.get_text_config().vocab_size
    cache = DynamicCache()
    caught: list[tuple[Any, Any]] = []
    for rows in filter(None, (context, tokens)):
        ids = torch.randint(vocabulary, (1, rows), device=device)
        hook = block.layer.register_forward_pre_hook(
            lambda module, args, kwargs: caught.append((args, kwargs)), with_kwargs=True
        )
        body(input_ids=ids, use_cache=True, **{cache_key(body): cache})
        hook.remove()
    args, kwargs = caught[-1]
    cached: Any = cache.layers[-1]
    keys, values = cached.keys[..., :context, :].clone(), cached.values[..., :context, :].clone()

    def call(i: int) -> None:
        cached.keys, cached.values = keys, values  # as before the pass, which has added its own rows
        block.layer(*args, **kwargs)

    return call


def expert_bytes(experts: Any) -> int:
    """Of one expert of a module."""
    nbytes = sum(p.numel() * p.element_size() for p in experts.parameters())
    return int(nbytes // experts.num_experts)


def _on_cpu(experts: Any) -> Any:
    """The experts module with the first few experts' weights on the CPU."""
    kept = min(experts.num_experts, -(-CPU_EXPERTS_BYTES // expert_bytes(experts)))
    asked = ("has_bias", "is_transposed", "has_gate", "act_fn", "_apply_gate")  # by expert_forward
    found = {name: getattr(experts, name) for name in asked if hasattr(experts, name)}
    return SimpleNamespace(**found, **{name: it[:kept].to("cpu") for name, it in experts.named_parameters()})


ALL_EXPERTS_FUNCTIONS.register(NO_EXPERTS, lambda module, hidden, ids, weights: hidden)
