"""The words and shapes of the trace format, version 1 (docs/design.md, The trace format).

N rows (real tokens, in the order of the steps), L layers, E experts per layer, top-K, A layers looked ahead.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.kit.errors import refusal

Array = NDArray[Any]

SCHEMA = 1
PREFILL, DECODE = 0, 1
MAX_EXPERTS = 65534
"""The largest E: ids are at most uint16, and its maximum marks an absent entry."""
MAX_ROW = 2**24
"""The most values that one token has of one signal: whoever reads a row at a time needs bounded memory."""

STEP_DTYPE = np.dtype([("request", "<i4"), ("phase", "u1"), ("first_row", "<i8"), ("rows", "<i4"), ("context", "<i4")])
"""One forward pass of one request. ``context``: tokens already in the KV cache when the step begins."""

MANIFEST_FILE, REQUESTS_FILE, STEPS_FILE, PREDICTED = "trace.json", "requests.csv", "steps.npy", "predicted"


@dataclass(frozen=True)
class Request:
    """One prompt with its generated tokens.

    ``prompt_tokens`` and ``output_tokens`` are the true counts, also where a phase was not recorded.
    ``arrival_s``: seconds since the start of the recording; ``split``: "train", "test" or None.
    """

    request: int
    prompt_tokens: int
    output_tokens: int
    arrival_s: float | None
    split: str | None
    source: str


@dataclass(frozen=True)
class Signal:
    """One array with a row per token: the names of its trailing axes and its dtype ("ids": see ids_dtype)."""

    axes: tuple[str, ...]
    dtype: str


SIGNALS: Mapping[str, Signal] = {
    "expert_ids": Signal(("L", "K"), "ids"),
    "expert_weights": Signal(("L", "K"), "<f2"),
    "router_probs": Signal(("L", "E"), "<f2"),
    "router_choice": Signal(("L", "E"), "<f2"),
    "gate_ahead": Signal(("L", "A", "K"), "ids"),
    "hidden": Signal(("L", "D'"), "<f2"),
    "embedding": Signal(("D",), "<f2"),
    "token_ids": Signal((), "<i4"),
}
"""All of them are optional but ``expert_ids``. In memory and on disk they are ``[N, *axes]``, C order."""


def ids_dtype(n_experts: int) -> np.dtype:
    """Return the dtype of expert ids: uint8 below 255 experts, else uint16."""
    return np.dtype("u1" if n_experts < 255 else "<u2")


def absent_id(n_experts: int) -> int:
    """Return the marker of an absent entry: the largest value of the ids' dtype."""
    return int(np.iinfo(ids_dtype(n_experts)).max)


def signal_dtype(name: str, n_experts: int) -> np.dtype:
    kind = SIGNALS[name].dtype
    return ids_dtype(n_experts) if kind == "ids" else np.dtype(kind)


def check_trailing(file: str, name: str, shape: tuple[int, ...], n_layers: int, n_experts: int, top_k: int) -> None:
    """Refuse a shape without its first axis (N) that the model's L, E and K do not allow.

    A, D and D' are free, but at least 1.
    """
    axes = SIGNALS[name].axes
    if math.prod(shape) > MAX_ROW:
        raise refusal(file, f"shape of {name} after the rows", shape, f"at most {MAX_ROW} values in a row")
    fixed = {"L": n_layers, "E": n_experts, "K": top_k}
    wanted = tuple(fixed.get(axis, max(size, 1)) for axis, size in zip(axes, shape, strict=False))
    if len(shape) != len(axes) or shape != wanted:
        allowed = ", ".join(f"{axis}={fixed[axis]}" if axis in fixed else f"{axis}>=1" for axis in axes)
        raise refusal(file, f"shape of {name} after the rows", shape, f"({allowed})")


def by_descending_weight(ids: Array, weights: Array) -> tuple[Array, Array]:
    """Order the last axis by descending weight, ties as they came; for recorders and importers.

    Entries that are absent must carry weight 0 (or less than any present one) to end up last.
    """
    order = np.argsort(-weights.astype(np.float32), axis=-1, kind="stable")
    return np.take_along_axis(ids, order, axis=-1), np.take_along_axis(weights, order, axis=-1)
