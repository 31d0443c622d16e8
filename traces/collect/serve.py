"""Serve one batch of jobs, and hand over what each of its requests left in every signal."""

from collections.abc import Collection

import numpy as np

from traces.collect.generate import passes
from traces.collect.recorder import Arrays, Recorder, by_request, joined
from traces.format.layout import DECODE, PREFILL, Request, signal_dtype
from traces.prompts.jobs import Job

Steps = list[tuple[int, int, int]]
"""(phase, rows, context) of every pass of a request."""

Served = tuple[Request, Steps, Arrays]


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
