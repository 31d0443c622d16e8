"""How far a model's outputs are from another's on the same text: perplexity, KL divergence, token agreement."""

from __future__ import annotations

import math
import shutil
import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from real.runtime.recorded import row_ends
from sim.core.accounts import PHASES
from sim.workload.passes import Pass
from traces import Trace
from traces.kit.errors import UserError

BLOCK = 64
"""Rows that are compared at a time: of a large vocabulary, in double precision."""


class Kept:
    """The logits of one run, in the order of its passes, in a temporary file: they outgrow memory.

    ``rows``: tokens of all passes. UserError where the disk has no room.
    """

    def __init__(self, rows: int, vocabulary: int) -> None:
        need, free = rows * vocabulary * 4, shutil.disk_usage(tempfile.gettempdir()).free
        if need > free:
            raise UserError(
                f"the full model's outputs take {need / 1e9:.1f} GB of temporary files, and {free / 1e9:.1f} GB are"
                " free; allowed: fewer requests (limit=)"
            )
        with tempfile.TemporaryFile() as file:  # which lives as long as it is mapped
            self._logits = np.memmap(file, np.float32, "w+", shape=(rows, vocabulary))
        self._next = 0

    def take(self, step: Pass, logits: Tensor) -> None:
        """The logits [rows, V] of the next pass."""
        self._logits[self._next : self._next + step.rows] = logits.numpy()
        self._next += step.rows

    def read(self, first: int, rows: int) -> Tensor:
        """Logits [rows, V], from the ``first`` row on."""
        return torch.from_numpy(np.array(self._logits[first : first + rows]))


@dataclass
class Sums:
    """Over the tokens of one phase. ``targets``: those whose next token is known; losses and KL in nats."""

    tokens: int = 0
    targets: int = 0
    loss_full: float = 0.0
    loss: float = 0.0
    kl: float = 0.0
    kl_max: float = 0.0
    agreed: int = 0

    def __add__(self, other: Sums) -> Sums:
        mine, its = vars(self), vars(other)
        return Sums(**{key: (max if key == "kl_max" else sum)((mine[key], its[key])) for key in mine})

    def figures(self) -> dict[str, Any]:
        """What a result says; None where there is no token to say it of."""
        return {
            "tokens": self.tokens,
            "targets": self.targets,
            "perplexity_full": _perplexity(self.loss_full, self.targets),
            "perplexity": _perplexity(self.loss, self.targets),
            "kl_nats": self.kl / self.tokens if self.tokens else None,
            "kl_max_nats": self.kl_max if self.tokens else None,
            "token_agreement": self.agreed / self.tokens if self.tokens else None,
        }


class Scores:
    """Compares the passes of a run with those that were ``kept`` of the full model, one after the other.

    KL is that of the full model's next-token distribution to the run's own, the full one being the truth; agreement is
    of the likeliest tokens; perplexity is of the text's own next token, where the request goes on.
    """

    def __init__(self, trace: Trace, kept: Kept) -> None:
        self._kept, self._next = kept, 0
        self._ends = row_ends(trace)
        assert trace.token_ids is not None
        self._tokens = np.asarray(trace.token_ids)
        self.sums = {phase: Sums() for phase in PHASES}

    def take(self, step: Pass, logits: Tensor) -> None:
        """The logits [rows, V] of the next pass."""
        phase, targets = PHASES[0 if step.prefill else 1], self._targets(step)
        for begin in range(0, step.rows, BLOCK):
            rows = slice(begin, min(begin + BLOCK, step.rows))
            truth = self._kept.read(self._next + begin, rows.stop - begin)
            self.sums[phase] += compare(truth, logits[rows], targets[rows])
        self._next += step.rows

    def figures(self) -> dict[str, Any]:
        """Over all tokens, and by the phase that computed them."""
        every = sum(self.sums.values(), Sums())
        return every.figures() | {phase: sums.figures() for phase, sums in self.sums.items()}

    def _targets(self, step: Pass) -> Tensor:
        """The next token of each of the pass's tokens, [rows]; -1 where the request ends."""
        rows = np.concatenate([np.arange(first, first + n) for first, n in step.parts])
        ends = np.repeat([self._ends[request] for request in step.requests], [n for _, n in step.parts])
        after = self._tokens[np.minimum(rows + 1, len(self._tokens) - 1)]
        return torch.from_numpy(np.where(rows + 1 < ends, after, -1).astype(np.int64))


def compare(truth: Tensor, logits: Tensor, targets: Tensor) -> Sums:
    """Logits [n, V] of the full model and of another one, n > 0; ``targets`` [n]: the next tokens, -1: not known."""
    p, q = (x.double().log_softmax(-1) for x in (truth, logits))
    kl = (p.exp() * (p - q)).sum(-1).clamp(min=0)  # below 0 by rounding alone
    known = (targets >= 0).nonzero()[:, 0]
    full, own = (-x[known, targets[known]].sum().item() for x in (p, q))
    agreed = int((truth.argmax(-1) == logits.argmax(-1)).sum())
    return Sums(len(truth), len(known), full, own, kl.sum().item(), kl.max().item(), agreed)


def _perplexity(loss: float, targets: int) -> float | None:
    try:
        return math.exp(loss / targets) if targets else None
    except OverflowError:  # a model that is sure of what is not there
        return None
