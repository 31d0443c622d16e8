"""The model's forward passes for requests that come and go: each has its own KV cache, a decode pass joins them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from real.runtime.backend import upload
from sim.workload.passes import Pass
from traces.kit.errors import UserError
from traces.models.families import cache_key, known


def check_cache(model: Any) -> None:
    """UserError where the model's cache holds more than keys and values of every token, which are joined here."""
    layers = DynamicCache(config=model.config.get_text_config()).layers
    odd = {type(layer).__name__ for layer in layers} - {"DynamicLayer", "DynamicSlidingWindowLayer"}
    if odd:
        raise UserError(
            f"model type {model.config.model_type!r} cannot be run here: its cache has layers of type {min(odd)};"
            " allowed: a model that keeps keys and values of every token"
        )


class Engine:
    """Prefill and decode passes of one model. Used in inference mode of the caller's."""

    def __init__(self, model: Any, device: torch.device) -> None:
        self.model, self.device = model, device
        self._cache_key = cache_key(model)
        self._own: dict[int, Any] = {}  # request -> its cache, where it is in no batch
        self._batch: tuple[int, ...] = ()
        self._joined: Any = None
        self._pads: list[int] = []  # of the batch's rows: unused places on the left
        self._length: dict[int, int] = {}

    def forward(self, step: Pass, tokens: Sequence[int], every: bool = False) -> Tensor:
        """A pass over ``tokens``, those of its requests; logits [requests, V], or of ``every`` one [rows, V]."""
        if not step.prefill:
            return self.decode(step.requests, tokens)
        logits = self.prefill(step.requests[0], tokens, every)
        return logits if every else logits[None]

    def prefill(self, request: int, tokens: Sequence[int], every: bool = False) -> Tensor:
        """The request's next prompt tokens; logits [V] of the last one, or of ``every`` one [n, V]."""
        cache = self._own.get(request)
        if cache is None:
            cache = self._own[request] = DynamicCache()
            self._length[request] = 0
        begin, keep = self._length[request], len(tokens) if every else 1
        places = list(range(begin, begin + len(tokens)))
        logits = self._logits([list(tokens)], [places], cache, logits_to_keep=keep)
        self._length[request] += len(tokens)
        return logits[0] if every else logits[0, -1]

    def decode(self, requests: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """One token of each request, in order; logits [B, V]."""
        self._join(tuple(requests))
        lengths = [self._length[request] for request in requests]
        given: dict[str, Tensor] = {}
        if any(self._pads):
            mask = torch.arange(max(lengths) + 1)[None] >= torch.tensor(self._pads)[:, None]
            given = {"attention_mask": upload(mask.long(), self.device)}
        ids, places = [[token] for token in tokens], [[length] for length in lengths]
        logits = self._logits(ids, places, self._joined, logits_to_keep=1, **given)
        for request in requests:
            self._length[request] += 1
        return logits[:, -1]

    def _logits(self, ids: list[list[int]], places: list[list[int]], cache: Any, **given: Any) -> Tensor:
        tokens, positions = upload(torch.tensor([ids, places]), self.device)  # at once
        given = known(self.model, position_ids=positions, **given)
        logits: Tensor = self.model(input_ids=tokens, use_cache=True, **{self._cache_key: cache}, **given).logits
        return logits

    def cache_bytes(self, request: int) -> int:
        """What a request that is in no batch holds of keys and values."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self._own[request].layers)

    def drop(self, request: int) -> None:
        """The request has ended."""
        if request in self._batch:
            self._part()
        self._own.pop(request, None)
        self._length.pop(request, None)

    def _join(self, requests: tuple[int, ...]) -> None:
        """Make ``requests`` the batch: rows of shorter caches are filled up on the left."""
        if requests == self._batch:
            return
        self._part()
        caches = [self._own.pop(request) for request in requests]
        lengths = [self._length[request] for request in requests]
        width = max(lengths)
        self._pads = [width - length for length in lengths]
        if len(caches) == 1:
            self._joined = caches[0]
        else:
            self._joined = DynamicCache()
            for index, layers in enumerate(zip(*(cache.layers for cache in caches), strict=True)):
                keys = torch.cat([_widened(layer.keys, width) for layer in layers])
                values = torch.cat([_widened(layer.values, width) for layer in layers])
                self._joined.update(keys, values, index)
        self._batch = requests

    def _part(self) -> None:
        """Give each request of the batch its own cache back."""
        if len(self._batch) == 1:
            self._own[self._batch[0]] = self._joined
        else:
            for row, (request, pad) in enumerate(zip(self._batch, self._pads, strict=True)):
                own = DynamicCache()
                for index, layer in enumerate(self._joined.layers):
                    keys, values = (x[row : row + 1, ..., pad:, :].clone() for x in (layer.keys, layer.values))
                    own.update(keys, values, index)
                self._own[request] = own
        self._batch, self._joined, self._pads = (), None, []


def _widened(cached: Tensor, width: int) -> Tensor:
    """[1, heads, n, d] -> [1, heads, width, d]."""
    return torch.nn.functional.pad(cached, (0, 0, width - cached.shape[-2], 0))
