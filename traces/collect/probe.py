"""Before anything is recorded: a few passes with a cache, compared with one without.

A cache that is not what the model takes it for (of another length, cut at another place, mixed up by padding) changes
what is routed, and every other check still passes. So the first tokens of the prompts run twice: as they are recorded,
a prefill and a few decode passes; and each request alone, in one pass without a cache. There the experts are those of
the first run, whatever the routers say: where two of them score alike, rounding may choose either, and all that follows
would differ. What remains are differences that rounding makes, and those are small.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from traces.collect.recorder import RAW, Arrays, Recorder, by_request, joined
from traces.collect.serve import PAD, passes
from traces.kit.errors import UserError
from traces.kit.telling import in_short
from traces.models.devices import input_device
from traces.models.families import MoeModel, known
from traces.models.routers import RecordingError
from traces.prompts.jobs import Choose

Array = NDArray[Any]

PROMPT, DECODED = 8, 3
"""Tokens of the prefill, and decode passes."""
WINDOW = 256
"""A sliding window of up to so many tokens is passed by the prefill; a longer one would make it expensive."""


@dataclass(frozen=True)
class _Run:
    """What one request has left: routing and router logits of its n tokens, and the logits of its last."""

    ids: Array  # [n, L, K], what the routers chose
    weights: Array
    routers: Array  # [n, L, E]
    logits: Array  # [1 + DECODED, V]

    @classmethod
    def of(cls, arrays: Arrays, logits: Tensor) -> Self:
        ids, weights, routers = (arrays[name] for name in RAW)
        return cls(ids, weights, routers, logits.float().cpu().numpy())


def check_cache(moe: MoeModel, prompts: Sequence[Sequence[int]]) -> None:
    """RecordingError unless a request with a cache is routed as one without, but for rounding.

    `prompts`: token ids of those that are served together first. Where there are several, a padded batch is tried too.
    """
    recorder = Recorder(moe, frozenset(RAW), ahead=1)
    text = _text(prompts[0], moe.model.config.get_text_config())
    with recorder.attached(), torch.inference_mode():
        (alone,) = _with_cache(recorder, [text])
        _compare(moe, alone, _without_cache(recorder, text, alone))
        if len(prompts) > 1:
            rows = [text[len(text) // 3 :], text]
            for row, ran in zip(rows, _with_cache(recorder, rows), strict=True):
                try:
                    _compare(moe, ran, _without_cache(recorder, row, ran))
                except RecordingError as error:
                    raise RecordingError(f"{error}; only in a padded batch; allowed: batch=1") from None


def tolerance(dtype: torch.dtype) -> float:
    """How far router logits may lie apart, as a share of their spread: half of the digits that the type has, twice."""
    return 2 * math.sqrt(torch.finfo(dtype).eps)


def _text(prompt: Sequence[int], config: Any) -> list[int]:
    """The tokens of the prompt, again and again, past the model's window if that is short."""
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    short = [window for window in windows if isinstance(window, int) and window <= WINDOW]
    most = getattr(config, "max_position_embeddings", None) or WINDOW + DECODED + 2
    return list(islice(cycle(prompt), min(max([PROMPT, *(window + 2 for window in short)]) + DECODED, most)))


def _with_cache(recorder: Recorder, rows: Sequence[list[int]]) -> list[_Run]:
    """A prefill of all but the last tokens of each row, and a decode pass for each of these."""
    decoded = min(DECODED, min(map(len, rows)) - 1)
    said: list[list[Tensor]] = [[] for _ in rows]
    parts: list[list[Arrays]] = [[] for _ in rows]

    def choose(row: int) -> Choose:
        tokens = iter([*rows[row][len(rows[row]) - decoded :], PAD])

        def pick(logits: Tensor) -> int:
            said[row].append(logits.float().cpu())
            return next(tokens)

        return pick

    prompts = [row[: len(row) - decoded] for row in rows]
    with _runs("with a cache"):
        served = passes(recorder.moe.model, prompts, [*map(choose, range(len(rows)))], [decoded + 1] * len(rows), ())
        for step in served:
            for of, part in zip(parts, by_request(recorder.pass_over(step.ids, step.real), step.real), strict=True):
                of.append(part)
    return [_Run.of(joined(of), torch.stack(logits)) for of, logits in zip(parts, said, strict=True)]


def _without_cache(recorder: Recorder, text: list[int], ran: _Run) -> _Run:
    """One pass over all tokens of a request; its experts compute what they computed in `ran`."""
    model, keep = recorder.moe.model, len(ran.logits)
    ids, device = torch.tensor([text]), input_device(recorder.moe.model)
    given = known(model, position_ids=torch.arange(len(text), device=device)[None], logits_to_keep=keep)
    recorder.forced = [(ran.ids[:, layer], ran.weights[:, layer]) for layer in range(ran.ids.shape[1])]
    try:
        with _runs("without a cache"):
            logits = model(input_ids=ids.to(device), use_cache=False, **given).logits
    finally:
        recorder.forced = None
    return _Run.of(recorder.pass_over(ids), logits[0, -keep:])


@contextmanager
def _runs(how: str) -> Iterator[None]:
    """RecordingError where the model's own code fails: it wants other inputs than text, or a cache."""
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the model's own code may raise anything
        raise RecordingError(f"the model does not run {how} ({in_short(error, kind=True)})") from error


def _compare(moe: MoeModel, ran: _Run, alone: _Run) -> None:
    """RecordingError, naming the first token and its first layer that differ, unless the two runs are alike."""
    dtype: torch.dtype = moe.model.dtype
    n, decoded = len(ran.ids), len(ran.logits) - 1
    beyond = np.argwhere(~_alike(ran.routers, alone.routers, dtype))
    apart = "a pass with a cache and one without differ by more than rounding"
    if len(beyond):
        token, layer = (int(x) for x in beyond[0])
        place = "the prefill" if token < n - decoded else f"decode pass {token - (n - decoded) + 1}"
        which = [", ".join(map(str, np.sort(run.ids[token, layer]))) for run in (ran, alone)]
        raise RecordingError(
            f"layer {layer}: {apart}, first for token {token} of {n}, in {place}: experts {which[0]} with, {which[1]}"
            f" without; router logits {_distance(ran.routers, alone.routers)[token, layer]:.1%} of their spread apart,"
            f" allowed in {str(dtype).removeprefix('torch.')}: {tolerance(dtype):.1%}"
        )
    if not (same := _alike(ran.logits, alone.logits, dtype)).all():
        token = n - len(same) + int(np.argmin(same))
        raise RecordingError(f"{apart} in what they say after token {token} of {n}, though all is routed alike")


def _alike(one: Array, other: Array, dtype: torch.dtype) -> Array:
    """Whether logits [..., E] differ by rounding alone: [...]. What all have in common is rounded too."""
    allowed = tolerance(dtype) * other.std(axis=-1, dtype=np.float64) + 4 * float(torch.finfo(dtype).eps) * _size(other)
    alike: Array = _size(one - other) <= allowed
    return alike


def _distance(one: Array, other: Array) -> Array:
    distance: Array = _size(one - other) / np.maximum(other.std(axis=-1, dtype=np.float64), 1e-30)
    return distance


def _size(values: Array) -> Array:
    """Root mean square over the last axis."""
    size: Array = np.sqrt((values.astype(np.float64) ** 2).mean(axis=-1))
    return size
