"""Recordings as SGLang writes them, made by torch; and torch_child in this process instead of one of its own."""

import io
import random
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
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


def here(source: Path, folder: Path) -> str:
    """Stands in for sglang_pt.spawn: the same program in this process, which has torch already, and without limits."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as said:
        patch.setattr(torch_child, "limit", lambda _: None)
        torch_child.run(source, folder)
    return said.getvalue().splitlines()[-1]
