"""What recording costs: the same batch recorded, and by the library's plain `generate`, in turns."""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from transformers import GenerationConfig

from traces.collect.recorder import Recorder
from traces.collect.serve import PAD, padded, serve
from traces.models.devices import input_device
from traces.prompts.jobs import Job, greedy


def measure(recorder: Recorder, jobs: Sequence[Job], within_s: float) -> str:
    """Serve `jobs`, greedily, recorded and plainly, in turns of up to 3 or `within_s` seconds, at least one: a line.

    Both run the same passes: every job makes as many tokens as the one that makes fewest, and none ends early. What
    is recorded is handed over request by request, and not written.
    """
    new_tokens = min(job.new_tokens for job in jobs)
    alike = [replace(job, choose=greedy, new_tokens=new_tokens) for job in jobs]
    prompts = [job.ids for job in jobs]
    turns: list[tuple[float, float]] = []
    deadline_s = time.monotonic() + within_s
    while not turns or (len(turns) < 3 and time.monotonic() < deadline_s):
        plain_s = _timed(lambda: _plain(recorder.moe.model, prompts, new_tokens))
        with recorder.attached(), torch.inference_mode():
            turns.append((_timed(lambda: serve(recorder, alike, ())), plain_s))
    recorded_s, plain_s = map(median, zip(*turns, strict=True))
    return (
        f"recording takes {recorded_s / plain_s:.2f} x the time of plain generate, writing aside "
        f"(last batch again: {recorded_s:.2f} s against {plain_s:.2f} s, median of {len(turns)})"
    )


def _timed(run: Callable[[], object]) -> float:
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
