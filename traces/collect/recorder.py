"""Record what a model's routers decide, pass by pass, without changing what it computes."""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from traces.collect.handed import Received, Routed, by_call, by_inputs
from traces.format.layout import absent_id, by_descending_weight
from traces.kit.errors import UserError
from traces.models.families import INPUTS, INTERFACE, MoeModel, family_of
from traces.models.routers import Asked, RecordingError, ask
from traces.models.scoring import check_routing

Arrays = dict[str, NDArray[Any]]
RAW = ("routed_ids", "routed_weights", "router_logits")
"""Signals [n, L, K], [n, L, K], [n, L, E] that no trace holds: as the routers gave them, idle choices included."""


@dataclass
class _Seen:
    """What one layer showed in a pass, on the layer's device: rows n, as the router's input has them."""

    logits: Tensor  # [n, E]
    scores: Tensor  # float32 [n, E]
    choice: Tensor  # [n, E]; the scores, where top-K is taken from them
    hidden: Tensor | None  # [n, D]
    given: tuple[Tensor, Tensor, Tensor] | None  # ids and weights of the router, and what it was given [n, D]
    ahead: list[Routed] = field(default_factory=list)  # of later routers
    routed: list[Tensor] = field(default_factory=list)  # ids, weights, and the weights expected, each [n, K]


class Recorder:
    """Hooks on a model's routers, experts and embedding; `pass_over` hands over what one pass left.

    `signals` are optional ones of the trace format; expert_ids and expert_weights always come, and router_choice comes
    with router_probs where the family has one. `ahead`: A, the layers that gate_ahead looks ahead. The model's layers
    may lie on several devices, or be offloaded by accelerate's hooks.
    """

    def __init__(self, moe: MoeModel, signals: frozenset[str], ahead: int) -> None:
        self.moe = moe
        with_choice = moe.has_choice and "router_probs" in signals
        self.signals = signals | {"router_choice"} if with_choice else signals - {"router_choice"}
        self.ahead = ahead
        self._offsets = np.array([layer.law.offset for layer in moe.layers], np.float32)
        self._chooses = moe.has_choice or any(layer.law.native for layer in moe.layers)
        self._layer_of = {id(layer.experts): index for index, layer in enumerate(moe.layers)}
        self._begin_pass()
        self._implementation = "eager"
        self.forced: Sequence[tuple[NDArray[Any], NDArray[Any]]] | None = None
        """Per layer the ids and weights [n, K] that experts compute with, in the place of what their router chose."""

    @contextmanager
    def attached(self) -> Iterator[Self]:
        """Within this block every pass of the model is recorded; it is left as it was found.

        What is wrong with a family that is listed is a RecordingError; with another one, a UserError.
        """
        model = self.moe.model
        before = model.config._experts_implementation
        name = f"traces_collect_{id(self)}"
        self._implementation = before
        self._begin_pass()
        with ExitStack() as undo:
            for index, layer in enumerate(self.moe.layers):
                handle = layer.router.register_forward_hook(self._router_hook(index), with_kwargs=True)
                undo.callback(handle.remove)
                if layer.way != INTERFACE:
                    hook = (by_inputs if layer.way == INPUTS else by_call)(index, self._note)
                    handle = layer.experts.register_forward_pre_hook(hook, with_kwargs=True)
                    undo.callback(handle.remove)
            undo.callback(model.get_input_embeddings().register_forward_hook(self._embedding_hook).remove)
            ALL_EXPERTS_FUNCTIONS[name] = self._experts
            undo.callback(ALL_EXPERTS_FUNCTIONS.pop, name)
            model.set_experts_implementation(name)
            undo.callback(model.set_experts_implementation, before)
            try:
                yield self
            except RecordingError as error:
                if self.moe.is_listed:
                    raise
                raise UserError(f"model type {family_of(model.config)!r} cannot be recorded: {error}") from error

    def pass_over(self, token_ids: Tensor, real: Tensor | None = None) -> Arrays:
        """What the pass over `token_ids` (int [B, T]) recorded: signal -> [n, ...], n its real tokens.

        `real`: bool [B, T], False for padding and finished rows. Raises RecordingError unless every MoE layer
        ran exactly once, over every token, and its experts were chosen and weighted as its router's law says.
        """
        seen, computed, embedding = self._seen, self._computed, self._embedding
        self._begin_pass()
        L, n = len(self.moe.layers), token_ids.numel()
        for ran, what in ((len(seen), "its router"), (computed, "its experts")):
            if ran < L:
                raise RecordingError(f"layer {ran}: {what} did not run in this pass")
        for index, layer in enumerate(seen):
            if len(layer.scores) != n:
                raise RecordingError(f"layer {index}: {len(layer.scores)} rows for {n} tokens")
        keep = np.ones(n, bool) if real is None else real.reshape(-1).cpu().numpy()
        ids, weights, expected = (_stacked([layer.routed[i] for layer in seen])[keep] for i in range(3))
        scores = _stacked([layer.scores for layer in seen])[keep]
        choice = _stacked([layer.choice for layer in seen])[keep] if self._chooses else scores
        check_routing(choice, ids, weights, expected)

        E = self.moe.n_experts
        arrays = dict(zip(("expert_ids", "expert_weights"), self._ordered(ids, weights), strict=True))
        if self.signals >= set(RAW):
            arrays |= zip(RAW, (ids, weights, _stacked([layer.logits for layer in seen])[keep]), strict=True)
        if "router_probs" in self.signals:
            arrays["router_probs"] = scores[..., :E]
        if "router_choice" in self.signals:
            arrays["router_choice"] = (choice - self._offsets[:, None])[..., :E]
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

    def _begin_pass(self) -> None:
        self._seen: list[_Seen] = []  # one per layer whose router has run in this pass
        self._recent: deque[Tensor] = deque(maxlen=self.ahead)  # what entered the last routers, [n, D] each
        self._computed = 0  # layers whose experts have run in this pass
        self._embedding: Tensor | None = None

    def _embedding_hook(self, _module: nn.Module, _args: Any, output: Tensor) -> None:
        self._embedding = output.detach()

    def _router_hook(self, index: int) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            _in_turn(index, len(self._seen), "its router")
            asked = Asked.of(index, self.moe.layers[index].router, args, kwargs)
            logits, weights, ids = self.moe.read_router(index, output, len(asked.hidden))
            law = self.moe.layers[index].law
            scores = law.scores(logits)
            choice = law.choice(logits, scores, asked.tokens) if self._chooses else scores
            kept = asked.hidden.clone() if self.signals & {"hidden", "gate_ahead"} else None
            if kept is not None and "gate_ahead" in self.signals:
                self._look_back(index, asked, kept)
            given = (ids, weights, asked.hidden)
            self._seen.append(_Seen(logits, scores, choice, kept if "hidden" in self.signals else None, given))

        return hook

    def _look_back(self, index: int, asked: Asked, hidden: Tensor) -> None:
        """Note what this router chooses from what entered those before it, up to A, nearest first; all in one call."""
        count = len(self._recent)
        if count:
            rows = torch.cat([earlier.to(hidden.device) for earlier in reversed(self._recent)])
            layer = self.moe.layers[index]
            tokens = None if asked.tokens is None else asked.tokens.repeat(count)
            output = ask(layer.router, layer.law.bias, rows, tokens)
            _, weights, ids = self.moe.read_router(index, output, len(rows))
            for seen, *chosen in zip(reversed(self._seen), ids.chunk(count), weights.chunk(count), strict=False):
                seen.ahead.append((chosen[0], chosen[1]))
        self._recent.append(hidden)

    def _ahead_ids(self, ahead: list[list[tuple[Tensor, Tensor]]], n: int) -> NDArray[Any]:
        """[n, L, A, K], by descending weight; absent past the last layer."""
        marker = absent_id(self.moe.n_experts)
        result = np.full((n, len(ahead), self.ahead, self.moe.top_k), marker)
        for distance in range(min(self.ahead, len(ahead) - 1)):
            pairs = [layer[distance] for layer in ahead[: len(ahead) - 1 - distance]]
            ids, weights = _stacked([ids for ids, _ in pairs]), _stacked([weights for _, weights in pairs])
            result[:, : len(pairs), distance] = self._ordered(ids, weights)[0]
        return result

    def _ordered(self, ids: NDArray[Any], weights: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """By descending weight; a choice that is no expert is absent, which has no weight."""
        if self.moe.idle:
            absent = ids >= self.moe.n_experts
            ids, weights = np.where(absent, absent_id(self.moe.n_experts), ids), np.where(absent, 0, weights)
        return by_descending_weight(ids, weights)

    def _experts(self, module: nn.Module, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Stand in for the library's experts function: note what it is asked, then let it compute."""
        index = self._layer_of[id(module)]
        asked = top_k_index, top_k_weights
        ids, weights = self._note(index, len(hidden_states), lambda *_chosen: asked) or asked
        eager = type(module).forward.__wrapped__  # type: ignore[attr-defined]
        compute = ALL_EXPERTS_FUNCTIONS.get_interface(self._implementation, eager)
        output: Tensor = compute(module, hidden_states, ids, weights)
        return output

    def _note(self, index: int, rows: int, received: Received) -> Routed | None:
        """Note what the experts of a layer received for so many tokens; returns what is forced upon them."""
        _in_turn(index, self._computed, "its experts")
        if index >= len(self._seen):
            raise RecordingError(f"layer {index}: its experts ran before its router")
        seen = self._seen[index]
        n, size = len(seen.logits), (len(seen.logits), self.moe.top_k)
        assert seen.given is not None
        given = ids, weights = received(*seen.given)
        seen.given = None  # it may be large
        if not ids.shape == weights.shape == size or rows != n:
            sizes = f"ids {tuple(ids.shape)} and weights {tuple(weights.shape)}"
            raise RecordingError(
                f"layer {index}: its experts received {rows} tokens with {sizes}; its router saw {n}, top-{size[1]}"
            )
        ids, weights = (x.detach().to(seen.logits.device, copy=True) for x in given)
        expected = self.moe.layers[index].law.weights(seen.logits, seen.scores, ids, weights)
        seen.routed = [ids, weights, expected]
        self._computed += 1
        if self.forced is None:
            return None
        ids, weights = (torch.from_numpy(mine).to(x) for mine, x in zip(self.forced[index], given, strict=True))
        return ids, weights


def by_request(arrays: Arrays, real: Tensor) -> list[Arrays]:
    """What a pass left, cut into the requests of its batch: `real` bool [B, T]; no rows of one that had ended."""
    ends = real.sum(1).cumsum(0).tolist()[:-1]
    cut = {name: np.split(array, ends) for name, array in arrays.items()}
    return [{name: parts[row] for name, parts in cut.items()} for row in range(len(real))]


def joined(parts: Sequence[Arrays]) -> Arrays:
    """The rows of several passes, one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _in_turn(index: int, ran: int, what: str) -> None:
    """Raise RecordingError unless layer `index` is the next one, `ran` being the layers that have run."""
    if index > ran:
        raise RecordingError(f"layer {ran}: {what} did not run before that of layer {index}")
    if index < ran:
        raise RecordingError(f"layer {index}: {what} ran twice in one pass")


def _stacked(layers: Sequence[Tensor | None]) -> NDArray[Any]:
    """[n, layers, ...] of tensors [n, ...], in one transfer per device."""
    present = [layer for layer in layers if layer is not None]
    places: dict[torch.device, list[int]] = {}
    for index, layer in enumerate(present):
        places.setdefault(layer.device, []).append(index)
    parts = [_numpy(torch.stack([present[index] for index in indices], dim=1)) for indices in places.values()]
    order = np.argsort(np.concatenate(list(places.values())))
    stacked: NDArray[Any] = np.concatenate(parts, axis=1)[:, order] if len(parts) > 1 else parts[0]
    return stacked


def _numpy(tensor: Tensor) -> NDArray[Any]:
    """On the CPU; floats that numpy may not know (bfloat16) become float32."""
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()
