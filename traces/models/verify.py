"""The laws that what was recorded must keep; see `scoring` for what each family's routers promise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from traces.models.routers import RecordingError

if TYPE_CHECKING:
    from traces.models.families import MoeModel

_ROUNDING = 1e-6
"""Softmax in float32 may swap two logits that differ in their last bit."""


def check_routing(choice: NDArray[Any], ids: NDArray[Any], weights: NDArray[Any], expected: NDArray[Any]) -> None:
    """Raise RecordingError, naming the layer, unless tokens chose as the law of their router says.

    `ids` [n, L, K] must be different experts, the top-K of `choice` [n, L, E] (ties may be broken either way), and
    `weights` [n, L, K] must be `expected` but for what bfloat16 rounds away.
    """
    E = choice.shape[-1]

    def refuse(bad: NDArray[Any], message: str) -> None:
        if bad.any():
            layer = int(np.argmax(bad.any(axis=0)))
            raise RecordingError(f"layer {layer}: {message}")

    refuse(((ids < 0) | (ids >= E)).any(axis=-1), f"an expert's number is not 0 to {E - 1}")
    refuse(np.isnan(choice).any(axis=-1), "a score is not a number")
    chosen = np.zeros(choice.shape, bool)
    np.put_along_axis(chosen, ids, True, axis=-1)
    refuse(chosen.sum(axis=-1) != ids.shape[-1], "a token chose an expert twice")
    lowest = np.where(chosen, choice, np.inf).min(axis=-1)
    highest = np.where(chosen, -np.inf, choice).max(axis=-1)
    refuse(np.isneginf(lowest), "a token chose an expert of a group that is not open to it")
    refuse(lowest < highest - _ROUNDING * np.abs(highest), "the chosen experts have not the highest scores")
    near = np.isclose(weights, expected, rtol=0.02, atol=1e-6)
    refuse(~near.all(axis=-1), "the weights do not follow from the scores")


def read_router(moe: MoeModel, index: int, output: Any, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """(logits [n, E], weights [n, K], ids [n, K]) of what the router of layer `index` returned for n tokens.

    E: all that it chooses from, idle experts included.
    """
    try:
        logits, weights, ids = (x.detach() for x in moe.layers[index].read(output))
    except (ValueError, TypeError, AttributeError):
        raise RecordingError(f"layer {index}: its router does not return logits, weights and ids") from None
    logits = logits.reshape(-1, logits.shape[-1])
    sizes, E, K = [tuple(x.shape) for x in (logits, weights, ids)], moe.n_choices, moe.top_k
    if sizes != [(n, E), (n, K), (n, K)] or ids.is_floating_point():
        expected = f"for {n} tokens, {E} experts and top-{K}"
        raise RecordingError(f"layer {index}: its router returns logits, weights, ids of shapes {sizes} {expected}")
    return logits, weights, ids
