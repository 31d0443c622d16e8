"""What recording costs: the same batch recorded, and by the library's plain `generate`, in turns."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from transformers import GenerationConfig

from traces.collect.devices import input_device
from traces.collect.generate import PAD, greedy, passes
from traces.collect.recorder import Recorder


@dataclass(frozen=True)
class Overhead:
    """Medians over `rounds` turns, in seconds."""

    recorded_s: float
    plain_s: float
    rounds: int

    def __str__(self) -> str:
        ratio = self.recorded_s / self.plain_s
        return (
            f"recording takes {ratio:.2f} x the time of plain generate "
            f"(last batch again: {self.recorded_s:.2f} s against {self.plain_s:.2f} s, median of {self.rounds})"
        )


def measure(recorder: Recorder, prompts: Sequence[list[int]], new_tokens: int, within_s: float) -> Overhead:
    """Serve `prompts` for `new_tokens` each, recorded and plainly, in turns of up to 3 or `within_s` seconds.

    Both run the same passes over the same number of tokens; nothing is written to disk. At least one turn.
    """
    recorded_s: list[float] = []
    plain_s: list[float] = []
    deadline_s = time.monotonic() + within_s
    while not plain_s or (len(plain_s) < 3 and time.monotonic() < deadline_s):
        plain_s.append(_timed(lambda: _plain(recorder.moe.model, prompts, new_tokens)))
        recorded_s.append(_timed(lambda: _recorded(recorder, prompts, new_tokens)))
    return Overhead(median(recorded_s), median(plain_s), len(plain_s))


def _timed(run: Any) -> float:
    started_s = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started_s


def _recorded(recorder: Recorder, prompts: Sequence[list[int]], new_tokens: int) -> None:
    many = len(prompts)
    with recorder.attached(), torch.inference_mode():
        for step in passes(recorder.moe.model, prompts, [greedy] * many, [new_tokens] * many, ()):
            recorder.pass_over(step.ids, step.real)


def _plain(model: Any, prompts: Sequence[list[int]], new_tokens: int) -> None:
    width, device = max(len(prompt) for prompt in prompts), input_device(model)
    ids = torch.tensor([[PAD] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    config: Any = GenerationConfig
    exactly = config(
        max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False, pad_token_id=PAD, eos_token_id=None
    )
    model.generate(input_ids=ids, attention_mask=mask, generation_config=exactly)
