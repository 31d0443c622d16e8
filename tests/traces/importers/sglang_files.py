"""Recordings as SGLang writes them, made by torch; and torch_child in a fork instead of a process of its own."""

import io
import os
import random
import sys
from pathlib import Path
from typing import Any

import torch

from traces.importers import torch_child

LAYERS, SLOTS, EXPERTS = 3, 8, 6
"""Layer 0 is dense; a token has 2 of 8 slots."""
MAP = [[5, 4, 3, 2, 1, 0, 2]] * LAYERS
"""Expert 2 has a replica."""


def record(
    number: int, mode: int, positions: list[int], lengths: list[int] | None = None, **more: Any
) -> dict[str, Any]:
    """One forward pass; experts are drawn by its number."""
    rng = random.Random(number)
    ids = [
        [[-1] * SLOTS if layer == 0 else rng.sample(range(EXPERTS), 2) + [-1] * (SLOTS - 2) for _ in positions]
        for layer in range(LAYERS)
    ]
    return {
        "forward_pass_id": number,
        "rank": 0,
        "gatherer_key": "primary",
        "input_ids": [100 + position for position in positions],
        "positions": positions,
        "extend_seq_lens": lengths,
        "forward_mode": mode,
        "topk_ids_of_layer": torch.tensor(ids, dtype=torch.int32).reshape(LAYERS, len(positions), SLOTS),
        "misc_objects": [],
        "global_physical_count": torch.zeros(LAYERS, len(MAP[0]), dtype=torch.int32),
        **more,
    }


def saved(content: Any) -> bytes:
    """Return what torch.save writes."""
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def recording(*records: dict[str, Any], **more: Any) -> bytes:
    """Return a file of mode per_token."""
    return saved({"records": list(records), "last_physical_to_logical_map": torch.tensor(MAP), **more})


class Fork:
    """Stands in for sglang_pt.spawn: the same program under the same limits, in a fork that serves many files.

    A process of its own for each would take the seconds in which torch is imported.
    """

    def __init__(self) -> None:
        self._child = self._left = 0
        self._ask, self._answers = io.StringIO(), io.StringIO()

    def __call__(self, source: Path, folder: Path) -> str:
        if not self._left:
            self._begin()
        self._left -= 1
        print(source, folder, sep="\t", file=self._ask, flush=True)
        answer = self._answers.readline().rstrip("\n")
        if answer and self._left:
            return answer
        status = self.close()
        return answer or f"torch was ended by signal {os.WTERMSIG(status)}"

    def close(self) -> int:
        """End the fork; returns its status."""
        self._ask.close()
        self._answers.close()
        self._left = 0
        return os.waitpid(self._child, 0)[1]

    def _begin(self) -> None:
        asked, ask = os.pipe()
        answers, answer = os.pipe()
        self._left, self._child = _FILES, os.fork()
        if self._child == 0:
            os.close(ask)
            # pytest may have put something else in the place of sys.stdout.
            sys.stdout, sys.stderr = os.fdopen(answer, "w"), io.StringIO()
            try:
                for line in os.fdopen(asked):
                    source, folder = line.rstrip("\n").split("\t")
                    torch_child.run(Path(source), Path(folder))
            finally:
                os._exit(0)
        os.close(asked)
        os.close(answer)
        self._ask, self._answers = os.fdopen(ask, "w"), os.fdopen(answers, errors="replace")


_FILES = 200
"""Files that one fork serves, well below its limit of time."""
forked = Fork()
