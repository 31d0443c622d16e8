"""Record prompts into a trace."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from traces.collect.families import MoeModel, inspect_model
from traces.collect.generate import Choose, forced, greedy, passes, sampled
from traces.collect.load import Loaded, device_name
from traces.collect.prompts import Prompt
from traces.collect.recorder import Arrays, Recorder
from traces.errors import UserError
from traces.format import DECODE, PREFILL, Request
from traces.manifest import Prompts
from traces.manifest import Recorder as RecorderInfo
from traces.writer import TraceWriter

Steps = list[tuple[int, int, int]]

DECODINGS = ("greedy", "sampled", "teacher_forced")


@dataclass(frozen=True)
class Decoding:
    """How each prompt is continued. Prompts beyond `max_prompt_tokens` are cut off at their end."""

    mode: str
    max_new_tokens: int
    max_prompt_tokens: int
    temperature: float
    seed: int

    def settings(self) -> dict[str, Any]:
        """What the manifest says about it."""
        settings: dict[str, Any] = {
            "mode": self.mode,
            "max_new_tokens": self.max_new_tokens,
            "max_prompt_tokens": self.max_prompt_tokens,
        }
        if self.mode == "sampled":
            settings |= {"temperature": self.temperature, "seed": self.seed}
        return settings


@dataclass(frozen=True)
class Job:
    """A tokenised prompt: what is prefilled, and what is chosen after it, at most `new_tokens` times."""

    prompt: Prompt
    ids: list[int]
    choose: Choose
    new_tokens: int


def plan(index: int, prompt: Prompt, loaded: Loaded, decoding: Decoding) -> Job:
    """Tokenise prompt number `index`; UserError where nothing is left to record or the model's window ends."""
    where = f"prompt {index} ({prompt.source})"
    ids = loaded.tokenizer(prompt.text)["input_ids"]
    head, rest = ids[: decoding.max_prompt_tokens], ids[decoding.max_prompt_tokens :]
    new_tokens = prompt.max_new_tokens or decoding.max_new_tokens
    choose: Choose = greedy
    if decoding.mode == "sampled":
        choose = sampled(decoding.temperature, decoding.seed + index)
    elif decoding.mode == "teacher_forced":
        choose, new_tokens = forced(rest), min(new_tokens, len(rest))
    if not head:
        raise UserError(f"{where}: no tokens")
    if not new_tokens:
        limit = f"max_prompt_tokens={decoding.max_prompt_tokens}"
        raise UserError(f"{where}: {len(ids)} tokens leave no continuation to force; lower {limit}")
    window = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
    if window is not None and len(head) + new_tokens > window:
        asked = f"{len(head)} prompt tokens + {new_tokens} new ones"
        raise UserError(f"{where}: {asked}; allowed: {window}, the model's window")
    return Job(prompt, head, choose, new_tokens)


def record_request(recorder: Recorder, job: Job, number: int, end: Collection[int]) -> tuple[Request, Steps, Arrays]:
    """Serve one job under an attached recorder: the request, its steps, and its rows of every signal."""
    steps: Steps = []
    parts: list[Arrays] = []
    context = 0
    for ids, _token in passes(recorder.moe.model, job.ids, job.choose, job.new_tokens, end):
        parts.append(recorder.pass_over(ids))
        rows = ids.shape[1]
        steps.append((DECODE if steps else PREFILL, rows, context))
        context += rows
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    request = Request(number, len(job.ids), len(steps), None, job.prompt.split, job.prompt.source)
    return request, steps, arrays


def end_tokens(loaded: Loaded) -> set[int]:
    """The tokens that end a text: the generation config's, and the tokenizer's."""
    ends = loaded.model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    return {int(token) for token in [*ends, loaded.tokenizer.eos_token_id] if token is not None}


def signal_shapes(moe: MoeModel, signals: Collection[str], ahead: int) -> dict[str, tuple[int, ...]]:
    """The optional arrays of the trace, with their shapes after the rows."""
    L, E, K = len(moe.layers), moe.n_experts, moe.top_k
    D = moe.model.config.get_text_config().hidden_size
    width = moe.model.get_input_embeddings().weight.shape[-1]
    known: dict[str, tuple[int, ...]] = {
        "expert_weights": (L, K),
        "router_probs": (L, E),
        "gate_ahead": (L, ahead, K),
        "hidden": (L, D),
        "embedding": (width,),
        "token_ids": (),
    }
    shapes = {name: shape for name, shape in known.items() if name in signals or name == "expert_weights"}
    if "router_probs" in shapes and moe.has_choice:
        shapes["router_choice"] = (L, E)
    return shapes


def collect(
    loaded: Loaded,
    prompts: Sequence[Prompt],
    out: Path,
    decoding: Decoding,
    signals: frozenset[str],
    ahead: int,
    about: Prompts,
    priced_as: str | None = None,
) -> Path:
    """Record `prompts`, one at a time, into the new trace `out`; returns its path.

    `signals`: optional arrays by the format's names; `about`: source and licence of the prompts. Raises
    UserError for prompts or a model that cannot be recorded, RecordingError for a model that misbehaves.
    """
    moe = inspect_model(loaded.model)
    jobs = [plan(index, prompt, loaded, decoding) for index, prompt in enumerate(prompts)]
    end: Collection[int] = () if decoding.mode == "teacher_forced" else end_tokens(loaded)
    recorder = Recorder(moe, signals, ahead)
    shapes = signal_shapes(moe, recorder.signals, ahead)
    sizes = {"n_layers": len(moe.layers), "n_experts": moe.n_experts, "top_k": moe.top_k}
    started_s, tokens = time.monotonic(), 0
    with TraceWriter(out, **sizes, signals=shapes) as writer, recorder.attached(), torch.inference_mode():
        for number, job in enumerate(jobs):
            request, steps, arrays = record_request(recorder, job, number, end)
            writer.add_request(request, steps=steps, **arrays)
            tokens += sum(rows for _, rows, _ in steps)
            _report(number + 1, len(jobs), tokens, time.monotonic() - started_s)
        return writer.close(
            name=loaded.name,
            revision=loaded.revision,
            recorder=RecorderInfo("traces.collect", recorder_version(), device_name(loaded.model.device)),
            decoding=decoding.settings(),
            recording="recorded",
            prompts=about,
            expert_bytes=moe.expert_bytes(),
            shapes=moe.shapes(),
            dtype=str(loaded.model.dtype).removeprefix("torch."),
            scoring=moe.scoring,
            priced_as=priced_as,
        )


def recorder_version() -> str:
    """Our version and those of the two libraries that decide what is computed."""
    ours, *theirs = (version(name) for name in ("moe-offload-workbench", "transformers", "torch"))
    return f"{ours} (transformers {theirs[0]}, torch {theirs[1]})"


def _report(done: int, of: int, tokens: int, elapsed_s: float) -> None:
    speed = tokens / max(elapsed_s, 1e-9)
    line = f"recorded {done}/{of} requests, {tokens} tokens, {elapsed_s:.1f} s, {speed:.0f} tokens/s"
    print(line, file=sys.stderr)
