"""A tiny model's configuration, its cells, and a device that is the simulator itself; tests of validate share these."""

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from real.calibrate.overheads import write_uniform
from real.runtime.models import open_model
from real.runtime.offloaded import Offloaded
from sim.experiment.compose import read_config
from sim.experiment.config import RunConfig

TINY = {
    "model_type": "olmoe",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_experts": 8,
    "num_experts_per_tok": 2,
}
PLANS = [(5, 4), (9, 3), (3, 6)]
"""Requests of the trace: (prompt tokens, decode steps)."""


@cache
def tiny() -> tuple[Path, Path, Offloaded]:
    """(the folder of its configuration, a trace of drawn routing, the model on the CPU), made once."""
    _KEPT.append(kept := TemporaryDirectory(prefix="validate-tests-"))
    folder = Path(kept.name) / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(TINY))
    model = Offloaded(open_model(str(folder), "float32", "random"), torch.device("cpu"))
    return folder, write_uniform(folder.parent / "trace", model, "tiny", PLANS, 3), model


_KEPT: list[Any] = []


def config(*words: str) -> RunConfig:
    """A run of the tiny trace on a published machine, without bounds."""
    _, trace, _ = tiny()
    return read_config([f"trace={trace}", "model=as_traced", "hardware=rtx_4090", "bounds=false", *words])


def words(*more: str) -> list[str]:
    """What makes ``real validate`` run the tiny model."""
    folder, trace, _ = tiny()
    return [f"trace={trace}", f"model={folder}", "weights=random", "hardware=rtx_4090", *more]
