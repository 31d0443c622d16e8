"""Cells, outputs and hand-made forwards for the tests of measured quality."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from real.quality.scores import Scores
from real.runtime.offloaded import Offloaded
from real.runtime.recorded import run_taught
from sim.experiment.cell import Cell, make_cell, make_policy
from sim.experiment.compose import read_config
from sim.experiment.config import RunConfig
from tests.traces.models.tiny import save_with_tokenizer, tiny
from traces.collect.record import Wanted, collect
from traces.models.load import Loaded, load
from traces.prompts.jobs import Decoding
from traces.prompts.source import PromptFile

TEXTS = dict.fromkeys(("the quick brown fox", "a text that is longer than the one before it", "and the third"), "test")
FIXED = ("policy=swapmoe_uniform", "policy.frequency=1000000", "policy.start=index")
"""The first experts by index, always: static pruning."""


def prompts(path: Path, texts: Mapping[str, str] = TEXTS) -> Path:
    """A file of texts, each with its split."""
    path.write_text("".join(json.dumps({"prompt": text, "split": split}) + "\n" for text, split in texts.items()))
    return path


def record(family: str, folder: Path) -> tuple[Any, Path]:
    """A tiny model, and a trace of its routing on TEXTS, 6 tokens of each prefilled."""
    saved = save_with_tokenizer(tiny(family), folder / family)
    loaded = load(str(saved), "float32", "cpu")
    return loaded.model, recorded(loaded, PromptFile(prompts(folder / "texts.jsonl")), 6, 99, folder / "trace")


def recorded(loaded: Loaded, texts: PromptFile, prompt_tokens: int, new_tokens: int, trace: Path) -> Path:
    """A trace of a model's routing on texts, teacher-forced."""
    wanted = Wanted(frozenset({"router_probs", "token_ids"}), ahead=1)
    return collect(loaded, texts, trace, Decoding("teacher_forced", new_tokens, prompt_tokens), wanted)


@cache
def _config(words: tuple[str, ...]) -> RunConfig:
    return read_config(words)


def cell_of(*words: str, budget: str | int, batch: int = 1) -> Cell:
    """A cell of a command's words."""
    workload = {"name": "closed_loop", "batch": batch}
    return make_cell(replace(_config(words), budget=str(budget), workload=workload))


def outputs(cell: Cell, model: Offloaded, policy: Any = None, versions: Any = None) -> tuple[Any, Any]:
    """(logits [N, V] in the order of the trace's rows, what the run left)."""
    found: list[Any] = []
    rows: list[int] = []

    def take(step: Any, logits: Any) -> None:
        found.append(logits.clone())
        rows.extend(row for first, n in step.parts for row in range(first, first + n))

    run = run_taught(cell, model, policy or make_policy(cell), take, versions)
    return torch.cat(found)[np.argsort(rows)], run


def scored(cell: Cell, model: Offloaded, kept: Any, policy: Any = None) -> dict[str, Any]:
    """Figures of a run, against the full model's outputs."""
    scores = Scores(cell.trace, kept)
    run_taught(cell, model, policy or make_policy(cell), scores.take)
    return scores.figures()


def requests_of(cell: Cell) -> list[list[int]]:
    """The tokens of each measured request."""
    trace = cell.trace
    steps = [trace.steps[trace.steps_of(request)] for request in cell.selection.measured]
    spans = [(int(s["first_row"][0]), int(s["rows"].sum())) for s in steps]
    return [trace.token_ids[first : first + rows].tolist() for first, rows in spans]


def plain(model: Any, requests: Sequence[list[int]]) -> Any:
    """The library's own logits [N, V]: one pass per request, no cache."""
    with torch.inference_mode():
        return torch.cat([model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0] for tokens in requests])


@contextmanager
def masked_routers(model: Any, virtual: Sequence[int], normalised: bool) -> Iterator[None]:
    """The library's model, whose routers' logits are masked: worked out here, from the family's definition."""

    def mask(_module: Any, _args: Any, output: Any) -> Any:
        logits, weights, _ = output
        open_ones = torch.tensor([x in virtual for x in range(logits.shape[-1])])
        scores = torch.where(open_ones, logits, -torch.inf).float().softmax(-1)
        best, ids = scores.topk(weights.shape[-1], -1)
        return logits, (best / best.sum(-1, keepdim=True) if normalised else best).to(weights), ids

    with contextlib.ExitStack() as undo:
        for module in model.modules():
            if type(module).__name__.endswith("TopKRouter"):
                undo.callback(module.register_forward_hook(mask).remove)
        yield


def loss_of(logits: Any, requests: Sequence[list[int]]) -> float:
    """The mean loss of the text's next tokens, by torch's own function."""
    parts = torch.split(logits, [len(tokens) for tokens in requests])
    scores = torch.cat([own[:-1] for own in parts])
    targets = torch.tensor([token for tokens in requests for token in tokens[1:]])
    return float(torch.nn.functional.cross_entropy(scores, targets))
