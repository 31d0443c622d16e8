"""Serve one batch of jobs, and hand over what each of its requests left in every signal."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np

from traces.collect.generate import passes
from traces.collect.recorder import Arrays, Recorder
from traces.format.layout import DECODE, PREFILL, Request, signal_dtype
from traces.prompts.jobs import Job

Steps = list[tuple[int, int, int]]
"""(phase, rows, context) of every pass of a request."""

Served = tuple[Request, Steps, Arrays]


@dataclass
class _Row:
    """One request of a batch, while it is being served."""

    job: Job
    steps: Steps = field(default_factory=list)
    parts: list[Arrays] = field(default_factory=list)
    context: int = 0

    def add(self, rows: int, arrays: Arrays) -> None:
        self.steps.append((DECODE if self.steps else PREFILL, rows, self.context))
        self.parts.append(arrays)
        self.context += rows


def serve(recorder: Recorder, jobs: list[Job], end: Collection[int]) -> list[Served]:
    """Serve a batch of jobs under an attached recorder: each request, its steps, and its rows of every signal."""
    rows = [_Row(job) for job in jobs]
    served = passes(
        recorder.moe.model,
        [job.ids for job in jobs],
        [job.choose for job in jobs],
        [job.new_tokens for job in jobs],
        end,
    )
    for step in served:
        arrays = _compact(recorder.pass_over(step.ids, step.real), recorder.moe.n_experts)
        counts = step.real.sum(1).tolist()
        first = 0
        for row, count in zip(rows, counts, strict=True):
            if count:
                row.add(count, {name: array[first : first + count] for name, array in arrays.items()})
                first += count
    done = []
    for row in rows:
        prompt = row.job.prompt
        arrays = {name: np.concatenate([part[name] for part in row.parts]) for name in row.parts[0]}
        request = Request(prompt.number, len(row.job.ids), len(row.steps), None, prompt.split, prompt.source)
        done.append((request, row.steps, arrays))
    return done


def _compact(arrays: Arrays, n_experts: int) -> Arrays:
    """The trace's own float type, half as large, while a request waits for its end; the writer checks values."""
    kinds = {name: signal_dtype(name, n_experts) for name in arrays}
    with np.errstate(over="ignore"):
        return {name: a.astype(kinds[name]) if kinds[name].kind == "f" else a for name, a in arrays.items()}
