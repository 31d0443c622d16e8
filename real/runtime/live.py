"""What the model itself shows as it runs: its routing, and the signals that a policy declares, read when asked for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from policies.api import Policy
from policies.predictors.saved import Fitted
from real.runtime.events import Feed
from sim.workload.passes import Pass, ordered_union
from sim.workload.signals import TraceSignals
from traces.format.layout import absent_id, by_descending_weight, ids_dtype
from traces.kit.errors import UserError
from traces.models.families import MoeModel
from traces.models.routers import ask
from traces.models.scoring import Law

Array = NDArray[Any]
AHEAD = 3
"""Layers that gate_ahead looks ahead at most."""
KEPT = 4096
"""Rows whose signals may stay on the device unread: reading them during the run would be charged to the policy."""


class StepShown:
    """One pass: what its layers have shown so far, on the device until somebody reads it, then in the trace's types."""

    def __init__(self, live: Live, rows: int) -> None:
        self.live, self.rows = live, rows
        self.hidden: list[Tensor] = []  # what entered each gate, [n, D]
        self.logits: list[Tensor] = []  # [n, E]
        self.routed: list[tuple[Array, Array]] = []  # ids and weights, [n, K], by descending weight
        self.tokens: Array = np.empty(0, np.int32)
        self._read: dict[tuple[Any, ...], Array] = {}
        self.kept: dict[str, Array] = {}
        """Once it is brought to the CPU: what there is of all layers, [n, L, ...] by name, and nothing else."""

    def read(self, name: str, index: tuple[Any, ...]) -> Array:
        """Signal ``name`` of one layer (and distance): [n, ...]."""
        if name in self.kept:
            found: Array = self.kept[name][(slice(None), *index)]
            return found
        key = (name, *index)
        if key not in self._read:
            self._read[key] = self._make(name, *index)
        return self._read[key]

    def whole(self, name: str) -> Array:
        """A signal of all layers, [n, L, ...]."""
        if name in self.kept:
            return self.kept[name]
        if name in ("embedding", "token_ids"):
            return self.read(name, ())
        layers = range(len(self.live.moe.layers))
        if name == "gate_ahead":
            ahead = [[self.read(name, (layer, distance)) for distance in range(AHEAD)] for layer in layers]
            return np.stack([np.stack(distances, 1) for distances in ahead], 1)
        return np.stack([self.read(name, (layer,)) for layer in layers], 1)

    def keep(self, names: Iterable[str]) -> None:
        """Keep these signals on the CPU, as a trace has them, and free all else."""
        self.kept = {name: self.whole(name) for name in names}
        self.hidden, self.logits, self.routed, self._read = [], [], [], {}

    def _make(self, name: str, layer: int = 0, distance: int = 0) -> Array:
        moe = self.live.moe
        if name == "expert_ids":
            return self.routed[layer][0].astype(ids_dtype(moe.n_experts))
        if name == "expert_weights":
            return _half(self.routed[layer][1])
        if name == "router_probs":
            return _half(_numpy(moe.layers[layer].law.scores(self.logits[layer])))
        if name == "hidden":
            return _half(_numpy(self.hidden[layer]))
        if name == "embedding":
            table = moe.model.get_input_embeddings()  # asked before the pass itself has run it
            return _half(_numpy(table(torch.from_numpy(self.tokens).to(table.weight.device))))
        if name == "token_ids":
            return self.tokens
        if name == "gate_ahead":
            return self._gate_ahead(layer, distance)
        return self._predicted(name, layer)

    def _gate_ahead(self, layer: int, distance: int) -> Array:
        """What the gate ``distance + 1`` layers on would choose from what entered this one."""
        moe, later = self.live.moe, layer + distance + 1
        if later >= len(moe.layers):
            return np.full((self.rows, moe.top_k), absent_id(moe.n_experts), ids_dtype(moe.n_experts))
        hidden = self.hidden[layer]
        asked = ask(moe.layers[later].router, moe.layers[later].law.bias, hidden)
        _, weights, ids = moe.read_router(later, asked, len(hidden))
        return by_descending_weight(_numpy(ids), _numpy(weights))[0].astype(ids_dtype(moe.n_experts))

    def _predicted(self, name: str, layer: int) -> Array:
        fitted, n_experts = self.live.predictors[name], self.live.moe.n_experts
        k = int(fitted.about["top_k"])
        if layer >= len(fitted.layers):
            return np.full((self.rows, k), absent_id(n_experts), ids_dtype(n_experts))
        return fitted.layers[layer].top(self.read("hidden", (layer,)), k).astype(ids_dtype(n_experts))


class LiveArray:
    """One signal over all rows so far, indexed as an array of a trace is, and read then."""

    def __init__(self, name: str, live: Live, trailing: tuple[int, ...]) -> None:
        self.name, self.live, self.shape = name, live, (0, *trailing)

    def __getitem__(self, key: tuple[Any, ...]) -> Array:
        """``[rows, layer]``, or less or more, as the signal has axes; the rows are a part of one pass."""
        rows, *index = key
        shown, part = self.live.at[rows.start]
        return shown.read(self.name, tuple(index))[part]


class Live(Feed):
    """The feed of a model that chooses for itself. Read as a trace is, by sim.workload.signals.TraceSignals.

    ``wanted``: signals that are kept. ``predictors``: fitted ones, by name, run on the spot. Memory grows with the rows
    as a trace does: ids and weights of L x K x 3 or 4 bytes, and what is wanted; on the device with KEPT rows at most.
    """

    def __init__(self, moe: MoeModel, wanted: Collection[str], predictors: Mapping[str, Fitted] | None = None) -> None:
        self.moe, self.predictors = moe, dict(predictors or {})
        if wrong := [name for name, fitted in self.predictors.items() if fitted.about["input"] != "hidden"]:
            raise UserError(f"predictor {wrong[0]}: reads routing; allowed on a device: one that reads hidden")
        self.wanted = frozenset(map(str, wanted)) | ({"hidden"} if self.predictors else set())
        L, E, K = len(moe.layers), moe.n_experts, moe.top_k
        self.expert_ids = LiveArray("expert_ids", self, (L, K))
        known = {"router_probs": (L, E), "gate_ahead": (L, AHEAD, K), "hidden": (L, 0), "expert_weights": (L, K)}
        for name, trailing in (known | {"embedding": (0,), "token_ids": ()}).items():
            setattr(self, name, LiveArray(name, self, trailing) if name in wanted else None)
        self.predicted: dict[str, Any] = {name: LiveArray(name, self, (L, 0)) for name in self.predictors}
        self.rows = 0
        self._kept = self._kept_rows = 0  # steps whose signals are all on the CPU, and their rows
        self.steps: list[tuple[Pass, StepShown]] = []
        self.at: dict[int, tuple[StepShown, slice]] = {}
        """By the first row of a part: the pass that it belongs to, and its place in it."""

    def signals(self, policy: Policy, predicted: Mapping[str, Any] | None = None) -> TraceSignals:
        """What is shown, as far as a policy declares it. ``predicted``: outputs [N, L, K'], else the predictors'."""
        ids = self.predicted if predicted is None else predicted
        return TraceSignals(self, policy.needs(), ids, policy.predictors())

    def enter(self, step: Pass, tokens: Sequence[int]) -> None:
        """A pass begins over these tokens; its parts are the next rows."""
        shown = StepShown(self, step.rows)
        shown.tokens = np.array(tokens, np.int32)
        self.steps.append((step, shown))
        begin = 0
        for first, rows in step.parts:
            self.at[first] = (shown, slice(begin, begin + rows))
            begin += rows
        self.rows += step.rows

    def rows_of(self, name: str, parts: Sequence[tuple[int, int]]) -> Array:
        """A signal's rows over ``parts`` [(first row, rows)], all layers: [n, L, ...], as a trace holds it."""
        found = []
        for first, _ in parts:
            shown, part = self.at[first]
            found.append(shown.whole(name)[part])
        return np.concatenate(found)

    def routing(self) -> None:
        return None

    def demand(self, layer: int, ids: NDArray[np.int64], weights: NDArray[Any] | None) -> tuple[list[int], list[int]]:
        """The demand set of a layer event. It is noted, by descending weight as a trace has it."""
        shown = self.steps[-1][1]
        assert weights is not None
        shown.routed.append(by_descending_weight(ids, weights.astype(np.float32)))
        flat = shown.routed[-1][0].astype(np.int64) + layer * self.moe.n_experts
        return ordered_union(flat, len(self.moe.layers) * self.moe.n_experts)

    def gate(self, layer: int, law: Law) -> tuple[Tensor, Tensor] | None:
        """The logits [n, E] of the layer whose gate has just run, and the weights [n, K] of what it chose."""
        shown = self.steps[-1][1]
        if "router_probs" not in self.wanted:
            return None
        return shown.logits[layer], torch.from_numpy(shown.routed[layer][1])

    def chosen(self, layer: int) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
        """Experts and weights [n, K] of the layer whose gate has just run, by descending weight."""
        ids, weights = self.steps[-1][1].routed[layer]
        return ids.astype(np.int64), weights.astype(np.float32)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Within this block the model's routers are listened to."""
        with ExitStack() as undo:
            for index, layer in enumerate(self.moe.layers):
                undo.callback(layer.router.register_forward_hook(self._router(index), with_kwargs=True).remove)
            yield

    def _router(self, index: int) -> Callable[..., None]:
        def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            shown = self.steps[-1][1]
            hidden = next(iter([*args, *kwargs.values()]))
            hidden = hidden.detach().reshape(-1, hidden.shape[-1])
            if self.wanted & {"hidden", "gate_ahead"}:
                shown.hidden.append(hidden.clone())
            if "router_probs" in self.wanted:
                shown.logits.append(self.moe.read_router(index, output, len(hidden))[0])

        return hook

    def ended(self) -> None:
        """The pass has ended. What nobody has read stays on the device, for a while."""
        self.keep_all(KEPT)

    def keep_all(self, but: int = 0) -> None:
        """Bring to the CPU what the policy has not read, for the trace, and free the device's copies; of the last
        ``but`` rows they may stay."""
        while self.rows - self._kept_rows > but:
            _, shown = self.steps[self._kept]
            self._kept += 1
            self._kept_rows += shown.rows
            shown.keep({"expert_ids", "expert_weights", "token_ids"} | self.wanted)


def _half(values: Array) -> Array:
    with np.errstate(over="ignore"):
        return values.astype(np.float16)


def _numpy(tensor: Tensor) -> Array:
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()
