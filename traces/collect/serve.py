"""Serve a batch of prompts: one prefill pass over all of them, then one pass per generated token."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from traces.collect.recorder import Arrays, Recorder, by_request, joined
from traces.format.layout import DECODE, PREFILL, Request, signal_dtype
from traces.models.devices import input_device
from traces.models.families import cache_key, known
from traces.models.routers import RecordingError
from traces.prompts.jobs import Choose, Job

PAD = 0
"""Fills the rows that are shorter than the longest; any token would do, for nothing attends to it."""

Steps = list[tuple[int, int, int]]
"""(phase, rows, context) of every pass of a request."""

Served = tuple[Request, Steps, Arrays]


@dataclass(frozen=True)
class Pass:
    """One forward pass. ids: int64 [B, T]; real: bool [B, T], False for padding and for rows that have ended."""

    ids: Tensor
    real: Tensor
    chosen: tuple[int | None, ...]  # the next token of each row; None for one that had ended before


def padded(prompts: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Tokens and which of them are real, [B, T]: padding comes first."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[PAD] * (width - len(prompt)) + prompt for prompt in prompts])
    return ids, torch.tensor([[False] * (width - len(prompt)) + [True] * len(prompt) for prompt in prompts])


def passes(
    model: Any,
    prompts: Sequence[list[int]],
    choose: Sequence[Choose],
    new_tokens: Sequence[int],
    end: Collection[int],
) -> Iterator[Pass]:
    """Run the passes of a batch, and yield each when it has run.

    Row b stops after `new_tokens[b]` tokens or one of `end`; the passes stop with the last row. The last token of a
    row is not fed back, so it has no pass. The model must be in inference mode of the caller's.
    """
    ids, real = padded(prompts)
    ragged = not bool(real.all())  # without padding no family needs a mask, and some kernels are faster without
    attended, positions = real, (real.cumsum(1) - 1).clamp(min=0)
    made, cache, device, key = [0] * len(prompts), None, input_device(model), cache_key(model)
    while True:
        given = {"position_ids": positions} | ({"attention_mask": attended.long()} if ragged else {})
        inputs = {name: tensor.to(device) for name, tensor in {"input_ids": ids, **known(model, **given)}.items()}
        out = model(**inputs, **{key: cache}, use_cache=True, **known(model, logits_to_keep=1))
        cache = getattr(out, key, None)
        if cache is None:
            raise RecordingError("its forward returns no cache, without which a token would know of none before it")
        alive = real[:, -1].tolist()
        chosen = tuple(
            pick(logits) if on else None for pick, logits, on in zip(choose, out.logits[:, -1], alive, strict=True)
        )
        yield Pass(ids, real, chosen)
        made = [count + on for count, on in zip(made, alive, strict=True)]
        goes_on = [
            on and count < most and token not in end
            for on, count, most, token in zip(alive, made, new_tokens, chosen, strict=True)
        ]
        if not any(goes_on):
            return
        ids = torch.tensor([[token if token is not None else PAD] for token in chosen])
        real = torch.tensor([[on] for on in goes_on])
        # The place of a row that has ended stays: some models scale by the farthest position of a batch.
        positions = positions[:, -1:] + real
        attended = torch.cat([attended, torch.ones_like(real)], dim=1)


def serve(recorder: Recorder, jobs: list[Job], end: Collection[int]) -> list[Served]:
    """Serve a batch of jobs under an attached recorder: each request, its steps, and its rows of every signal."""
    steps: list[Steps] = [[] for _ in jobs]
    parts: list[list[Arrays]] = [[] for _ in jobs]
    choose, new_tokens = [job.choose for job in jobs], [job.new_tokens for job in jobs]
    for step in passes(recorder.moe.model, [job.ids for job in jobs], choose, new_tokens, end):
        arrays = _compact(recorder.pass_over(step.ids, step.real), recorder.moe.n_experts)
        for done, own, part in zip(steps, parts, by_request(arrays, step.real), strict=True):
            if rows := len(part["expert_ids"]):
                done.append((DECODE, rows, done[-1][1] + done[-1][2]) if done else (PREFILL, rows, 0))
                own.append(part)
    served = []
    for job, done, own in zip(jobs, steps, parts, strict=True):
        prompt = job.prompt
        request = Request(prompt.number, len(job.ids), len(done), None, prompt.split, prompt.source)
        served.append((request, done, joined(own)))
    return served


def _compact(arrays: Arrays, n_experts: int) -> Arrays:
    """The trace's own float type, half as large, while a request waits for its end; the writer checks values."""
    kinds = {name: signal_dtype(name, n_experts) for name in arrays}
    with np.errstate(over="ignore"):
        return {name: a.astype(kinds[name]) if kinds[name].kind == "f" else a for name, a in arrays.items()}
