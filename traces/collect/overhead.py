"""What recording costs: the same batch recorded, and by the library's plain `generate`, in turns."""

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from transformers import GenerationConfig

from traces.collect.generate import PAD, padded
from traces.collect.recorder import Recorder
from traces.collect.serve import serve
from traces.models.devices import input_device
from traces.prompts.choosing import greedy
from traces.prompts.jobs import Job


@dataclass(frozen=True)
class Overhead:
    """Medians over `rounds` turns, in seconds."""

    recorded_s: float
    plain_s: float
    rounds: int

    def __str__(self) -> str:
        ratio = self.recorded_s / self.plain_s
        return (
            f"recording takes {ratio:.2f} x the time of plain generate, writing aside "
            f"(last batch again: {self.recorded_s:.2f} s against {self.plain_s:.2f} s, median of {self.rounds})"
        )


def measure(recorder: Recorder, jobs: Sequence[Job], within_s: float) -> Overhead:
    """Serve `jobs`, greedily, recorded and plainly, in turns of up to 3 or `within_s` seconds, at least one.

    Both run the same passes: every job makes as many tokens as the one that makes fewest, and none ends early. What
    is recorded is handed over request by request, and not written.
    """
    new_tokens = min(job.new_tokens for job in jobs)
    alike = [replace(job, choose=greedy, new_tokens=new_tokens) for job in jobs]
    prompts = [job.ids for job in jobs]
    recorded_s: list[float] = []
    plain_s: list[float] = []
    deadline_s = time.monotonic() + within_s
    while not plain_s or (len(plain_s) < 3 and time.monotonic() < deadline_s):
        plain_s.append(_timed(lambda: _plain(recorder.moe.model, prompts, new_tokens)))
        with recorder.attached(), torch.inference_mode():
            recorded_s.append(_timed(lambda: serve(recorder, alike, ())))
    return Overhead(median(recorded_s), median(plain_s), len(plain_s))


def _timed(run: Any) -> float:
    started_s = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started_s


def _plain(model: Any, prompts: Sequence[list[int]], new_tokens: int) -> None:
    ids, real = (each.to(input_device(model)) for each in padded(prompts))
    config: Any = GenerationConfig
    own = model.generation_config
    # In place of the model's own, which would fill the gaps: with end tokens, penalties, another cache.
    model.generation_config = config(max_new_tokens=new_tokens, do_sample=False, pad_token_id=PAD)
    try:
        with warnings.catch_warnings():  # a model whose first layers are on the disk is on "meta", some releases warn
            warnings.simplefilter("ignore", UserWarning)
            model.generate(input_ids=ids, attention_mask=real.long())
    finally:
        model.generation_config = own
