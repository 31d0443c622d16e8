"""Record what a model's routers decide, pass by pass, without changing what it computes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from traces.collect.families import MoeModel
from traces.format import absent_id, by_descending_weight

Arrays = dict[str, NDArray[Any]]

_names = itertools.count()


class RecordingError(AssertionError):
    """The model did not do what a trace can hold: a bug of ours or a family that needs support."""


class Recorder:
    """Hooks on a model's routers, experts and embedding; `pass_over` hands over what one pass left.

    `signals` are names of the trace format; expert_ids and expert_weights always come. `ahead`: A, for gate_ahead.
    """

    def __init__(self, moe: MoeModel, signals: frozenset[str], ahead: int) -> None:
        self.moe = moe
        self.signals = signals | {"expert_ids", "expert_weights"}
        self.ahead = ahead
        self._layer_of = {id(layer.experts): index for index, layer in enumerate(moe.layers)}
        self._seen: list[Arrays] = []  # one per layer whose router has run in this pass
        self._computed = 0  # layers whose experts have run in this pass
        self._embedding: Tensor | None = None
        self._delegate: Any = None

    @contextmanager
    def attached(self) -> Iterator[Recorder]:
        """Within this block every pass of the model is recorded; it is left as it was found."""
        model = self.moe.model
        before = model.config._experts_implementation
        name = f"traces_collect_{next(_names)}"
        self._delegate = before
        with ExitStack() as undo:
            for index, layer in enumerate(self.moe.layers):
                handle = layer.router.register_forward_hook(self._router_hook(index))
                undo.callback(handle.remove)
            undo.callback(model.get_input_embeddings().register_forward_hook(self._embedding_hook).remove)
            ALL_EXPERTS_FUNCTIONS[name] = self._experts
            undo.callback(ALL_EXPERTS_FUNCTIONS.pop, name)
            model.set_experts_implementation(name)
            undo.callback(model.set_experts_implementation, before)
            yield self

    def pass_over(self, token_ids: Tensor, real: Tensor | None = None) -> Arrays:
        """What the pass over `token_ids` (int [B, T]) recorded: signal -> [n, ...], n its real tokens.

        `real`: bool [B, T], False for padding and finished rows. Raises RecordingError unless every MoE layer
        ran exactly once, for every token.
        """
        L = len(self.moe.layers)
        seen, computed, embedding = self._seen, self._computed, self._embedding
        self._seen, self._computed, self._embedding = [], 0, None
        if len(seen) != L or computed != L:
            raise RecordingError(f"{len(seen)} routers and {computed} layers of experts ran; expected {L}")
        keep = np.ones(token_ids.numel(), bool) if real is None else real.reshape(-1).cpu().numpy()
        arrays = {}
        for name in seen[0]:
            if any(len(layer[name]) != len(keep) for layer in seen):
                raise RecordingError(f"{name} has not one row for each of the {len(keep)} tokens")
            arrays[name] = np.stack([layer[name][keep] for layer in seen], axis=1)
        if "token_ids" in self.signals:
            arrays["token_ids"] = token_ids.reshape(-1).cpu().numpy()[keep]
        if "embedding" in self.signals:
            if embedding is None or embedding.shape[:-1] != token_ids.shape:
                raise RecordingError("the embedding layer did not run once for each token")
            arrays["embedding"] = _numpy(embedding.flatten(0, -2))[keep]
        return arrays

    def _embedding_hook(self, _module: nn.Module, _args: Any, output: Tensor) -> None:
        self._embedding = output.detach()

    def _router_hook(self, index: int) -> Any:
        def hook(_module: nn.Module, args: tuple[Tensor, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
            if index != len(self._seen):
                raise RecordingError(f"router {index} ran out of turn: {len(self._seen)} was expected")
            hidden = args[0].detach().reshape(-1, args[0].shape[-1])
            scores = self.moe.scores(output[0].detach().reshape(len(hidden), -1))
            if scores.shape[-1] != self.moe.n_experts:
                raise RecordingError(f"router {index} scores {scores.shape[-1]}, not {self.moe.n_experts}")
            arrays = {"scores": _numpy(scores)}
            if "hidden" in self.signals:
                arrays["hidden"] = _numpy(hidden)
            if "gate_ahead" in self.signals:
                arrays["gate_ahead"] = self._look_ahead(index, hidden)
            self._seen.append(arrays)

        return hook

    def _look_ahead(self, index: int, hidden: Tensor) -> NDArray[Any]:
        """Ids [n, A, K] that the next A routers choose from what entered this one; absent past the last."""
        marker = absent_id(self.moe.n_experts)
        ids = np.full((len(hidden), self.ahead, self.moe.top_k), marker)
        for ahead, layer in enumerate(self.moe.layers[index + 1 : index + 1 + self.ahead]):
            # forward, not a call: the router's hooks must not take this for a pass.
            _, weights, chosen = layer.router.forward(hidden)
            ids[:, ahead] = by_descending_weight(_numpy(chosen), _numpy(weights.float()))[0]
        return ids

    def _experts(self, module: nn.Module, hidden: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        """Stand in for the library's experts function: record, check, then let it compute."""
        index = self._layer_of[id(module)]
        if index != self._computed or index >= len(self._seen):
            raise RecordingError(f"the experts of layer {index} ran out of turn")
        self._computed += 1
        arrays = self._seen[index]
        chosen, shares = _numpy(ids), _numpy(weights.float())
        check_routing(index, arrays["scores"], chosen, shares, self.moe.top_k)
        if "router_probs" in self.signals:
            arrays["router_probs"] = arrays["scores"]
        del arrays["scores"]
        arrays["expert_ids"], arrays["expert_weights"] = by_descending_weight(chosen, shares)
        original = type(module).forward.__wrapped__  # type: ignore[attr-defined]
        compute = ALL_EXPERTS_FUNCTIONS.get_interface(self._delegate, original)
        output: Tensor = compute(module, hidden, ids, weights)
        return output


def check_routing(layer: int, scores: NDArray[Any], ids: NDArray[Any], weights: NDArray[Any], top_k: int) -> None:
    """Raise RecordingError unless `ids` [n, K] are the top-K of `scores` [n, E], weighted in their proportion.

    Ties may be broken either way; proportions may differ by what bfloat16 rounds away.
    """
    n, E = scores.shape
    if ids.shape != (n, top_k) or weights.shape != (n, top_k):
        raise RecordingError(f"layer {layer}: ids {ids.shape}, weights {weights.shape}, not ({n}, {top_k})")
    if ids.min() < 0 or ids.max() >= E:
        raise RecordingError(f"layer {layer}: ids from {ids.min()} to {ids.max()}; allowed: 0 to {E - 1}")
    chosen = np.zeros((n, E), bool)
    np.put_along_axis(chosen, ids, True, axis=1)
    if (chosen.sum(axis=1) != top_k).any():
        raise RecordingError(f"layer {layer}: a token chose an expert twice")
    if (np.where(chosen, scores, np.inf).min(axis=1) < np.where(chosen, -np.inf, scores).max(axis=1)).any():
        raise RecordingError(f"layer {layer}: the chosen experts are not those with the highest scores")
    picked = np.take_along_axis(scores, ids, axis=1)
    shares = picked / picked.sum(axis=1, keepdims=True)
    if not np.allclose(weights / weights.sum(axis=1, keepdims=True), shares, rtol=0.03, atol=1e-3):
        raise RecordingError(f"layer {layer}: the weights are not in proportion to the scores")


def _numpy(tensor: Tensor) -> NDArray[Any]:
    """A copy on the CPU; what numpy has no type for (bfloat16) becomes float32."""
    tensor = tensor.detach()
    tensor = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    return tensor.cpu().numpy().copy()
