"""Record what a model's routers decide, pass by pass, without changing what it computes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
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


@dataclass
class _Seen:
    """What one layer showed in a pass, on the model's device: rows n, as the router's input has them."""

    scores: Tensor  # float32 [n, E]
    hidden: Tensor | None  # [n, D]
    ahead: list[tuple[Tensor, Tensor]]  # (ids, weights), each [n, K], of the routers that follow
    ids: Tensor | None = None  # [n, K]
    weights: Tensor | None = None  # [n, K]


class Recorder:
    """Hooks on a model's routers, experts and embedding; `pass_over` hands over what one pass left.

    `signals` are optional ones of the trace format; expert_ids and expert_weights always come. `ahead`: A, the
    layers that gate_ahead looks ahead.
    """

    def __init__(self, moe: MoeModel, signals: frozenset[str], ahead: int) -> None:
        self.moe = moe
        self.signals = signals
        self.ahead = ahead
        self._layer_of = {id(layer.experts): index for index, layer in enumerate(moe.layers)}
        self._seen: list[_Seen] = []  # one per layer whose router has run in this pass
        self._computed = 0  # layers whose experts have run in this pass
        self._embedding: Tensor | None = None
        self._implementation = "eager"

    @contextmanager
    def attached(self) -> Iterator[Recorder]:
        """Within this block every pass of the model is recorded; it is left as it was found."""
        model = self.moe.model
        before = model.config._experts_implementation
        name = f"traces_collect_{next(_names)}"
        self._implementation = before
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
        ran exactly once, over every token, and chose the experts with the highest scores.
        """
        seen, computed, embedding = self._seen, self._computed, self._embedding
        self._seen, self._computed, self._embedding = [], 0, None
        L, n = len(self.moe.layers), token_ids.numel()
        if len(seen) != L or computed != L:
            raise RecordingError(f"{len(seen)} routers and {computed} layers of experts ran; expected {L}")
        for index, layer in enumerate(seen):
            if len(layer.scores) != n:
                raise RecordingError(f"layer {index}: {len(layer.scores)} rows for {n} tokens")
        keep = np.ones(n, bool) if real is None else real.reshape(-1).cpu().numpy()
        scores = _stacked([layer.scores for layer in seen])[keep]
        ids = _stacked([layer.ids for layer in seen])[keep]
        weights = _stacked([layer.weights for layer in seen])[keep]
        check_routing(scores, ids, weights)

        arrays = dict(zip(("expert_ids", "expert_weights"), by_descending_weight(ids, weights), strict=True))
        if "router_probs" in self.signals:
            arrays["router_probs"] = scores
        if "gate_ahead" in self.signals:
            arrays["gate_ahead"] = self._ahead_ids([layer.ahead for layer in seen], n)[keep]
        if "hidden" in self.signals:
            arrays["hidden"] = _stacked([layer.hidden for layer in seen])[keep]
        if "embedding" in self.signals:
            if embedding is None or embedding.shape[:-1] != token_ids.shape:
                raise RecordingError("the embedding layer did not run once, over every token")
            arrays["embedding"] = _numpy(embedding.flatten(0, -2))[keep]
        if "token_ids" in self.signals:
            arrays["token_ids"] = token_ids.reshape(-1).cpu().numpy()[keep]
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
            ahead = self._look_ahead(index, hidden) if "gate_ahead" in self.signals else []
            self._seen.append(_Seen(scores, hidden.clone() if "hidden" in self.signals else None, ahead))

        return hook

    def _look_ahead(self, index: int, hidden: Tensor) -> list[tuple[Tensor, Tensor]]:
        """What the next routers, up to A, choose from what entered this one."""
        later = self.moe.layers[index + 1 : index + 1 + self.ahead]
        # forward, not a call: the routers' hooks must not take this for a pass.
        outputs = [layer.router.forward(hidden) for layer in later]
        return [(ids.detach(), weights.detach()) for _, weights, ids in outputs]

    def _ahead_ids(self, ahead: list[list[tuple[Tensor, Tensor]]], n: int) -> NDArray[Any]:
        """[n, L, A, K], by descending weight; absent past the last layer."""
        marker = absent_id(self.moe.n_experts)
        result = np.full((n, len(ahead), self.ahead, self.moe.top_k), marker)
        for distance in range(min(self.ahead, len(ahead) - 1)):
            pairs = [layer[distance] for layer in ahead[: len(ahead) - 1 - distance]]
            ids, weights = _stacked([ids for ids, _ in pairs]), _stacked([weights for _, weights in pairs])
            result[:, : len(pairs), distance] = by_descending_weight(ids, weights)[0]
        return result

    def _experts(self, module: nn.Module, hidden: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        """Stand in for the library's experts function: note what it is asked, then let it compute."""
        index = self._layer_of[id(module)]
        if index != self._computed or index >= len(self._seen):
            raise RecordingError(f"the experts of layer {index} ran out of turn")
        seen = self._seen[index]
        expected = (len(seen.scores), self.moe.top_k)
        if ids.shape != expected or weights.shape != expected:
            raise RecordingError(f"layer {index}: ids {ids.shape}, weights {weights.shape}, not {expected}")
        seen.ids, seen.weights = ids.detach().clone(), weights.detach().clone()
        self._computed += 1
        eager = type(module).forward.__wrapped__  # type: ignore[attr-defined]
        compute = ALL_EXPERTS_FUNCTIONS.get_interface(self._implementation, eager)
        output: Tensor = compute(module, hidden, ids, weights)
        return output


def check_routing(scores: NDArray[Any], ids: NDArray[Any], weights: NDArray[Any]) -> None:
    """Raise RecordingError unless `ids` [n, L, K] are the top-K of `scores` [n, L, E], weighted in proportion.

    Ties may be broken either way; proportions may differ by what bfloat16 rounds away.
    """
    E = scores.shape[-1]

    def refuse(bad: NDArray[Any], message: str) -> None:
        if bad.any():
            layer = int(np.argmax(bad.any(axis=0)))
            raise RecordingError(f"layer {layer}: {message}")

    refuse(((ids < 0) | (ids >= E)).any(axis=-1), f"an expert's number is not 0 to {E - 1}")
    chosen = np.zeros(scores.shape, bool)
    np.put_along_axis(chosen, ids, True, axis=-1)
    refuse(chosen.sum(axis=-1) != ids.shape[-1], "a token chose an expert twice")
    lowest, highest = np.where(chosen, scores, np.inf), np.where(chosen, -np.inf, scores)
    refuse(lowest.min(axis=-1) < highest.max(axis=-1), "the chosen experts have not the highest scores")
    picked = np.take_along_axis(scores, ids, axis=-1)
    shares, expected = (part / part.sum(axis=-1, keepdims=True) for part in (weights, picked))
    near = np.isclose(shares, expected, rtol=0.03, atol=1e-3)
    refuse(~near.all(axis=-1), "the weights are not in proportion to the scores")


def _stacked(layers: Sequence[Tensor | None]) -> NDArray[Any]:
    """[n, layers, ...] of tensors [n, ...], in one transfer."""
    return _numpy(torch.stack([layer for layer in layers if layer is not None], dim=1))


def _numpy(tensor: Tensor) -> NDArray[Any]:
    """On the CPU; floats that numpy may not know (bfloat16) become float32."""
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()
