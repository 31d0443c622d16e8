"""Record prompts into a trace, a batch at a time; an interrupted recording goes on where it was. And what it costs."""

import math
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import GenerationConfig

from traces.collect.probe import check_cache
from traces.collect.recorder import Recorder
from traces.collect.serve import PAD, padded, serve
from traces.format.layout import STEP_DTYPE, signal_dtype
from traces.format.manifest import About, Prompts
from traces.format.manifest import Recorder as RecorderInfo
from traces.kit import conf
from traces.kit.errors import UserError, one_of
from traces.kit.telling import left, showing
from traces.kit.units import format_bytes
from traces.models.devices import device_name, input_device
from traces.models.families import MoeModel, inspect_model, signal_shapes
from traces.models.load import Loaded, end_tokens, recorder_version
from traces.models.routers import RecordingError
from traces.prompts.jobs import Decoding, Job, greedy, groups, plan
from traces.prompts.source import PromptFile
from traces.writing.writer import TraceWriter

TOLD_EVERY_S = 2.0
CHECKPOINT_S = 5.0
"""A killed recording repeats at most this much, and the batch that it was at."""


@dataclass(frozen=True)
class Wanted:
    """What to record beside the experts. `signals`: optional arrays by the format's names; `ahead`: A.

    `overhead_s`: how long the recording may be compared with plain generate afterwards, at least once; 0: not at all.
    """

    signals: frozenset[str]
    ahead: int
    licence: str | None = None
    priced_as: str | None = None
    overhead_s: float = 0.0


def check_priced_as(name: str, n_layers: int, n_experts: int, top_k: int) -> None:
    """UserError unless `name` is a model of `conf/model/` with as many MoE layers, experts and choices per token."""
    alike = sorted(key for key in conf.names("model") if conf.model_sizes(key) == (n_layers, n_experts, top_k))
    if name not in alike:
        has = f"moe_layers {n_layers}, experts {n_experts}, top_k {top_k}"
        raise UserError(f"priced_as={name!r}; allowed for a model of {has}: {one_of(alike) or 'none'}")


def check_disk(out: Path, moe: MoeModel, shapes: Mapping[str, tuple[int, ...]], rows: int) -> None:
    """Say what the trace takes at most, with a step for each row; UserError where `out`'s disk has less left."""
    arrays = {"expert_ids": (len(moe.layers), moe.top_k), **shapes}
    sizes = (signal_dtype(name, moe.n_experts).itemsize * math.prod(shape) for name, shape in arrays.items())
    needed = rows * (sum(sizes) + STEP_DTYPE.itemsize)
    free = shutil.disk_usage(out.parent).free
    print(f"at most {rows} tokens: {format_bytes(needed)} on disk, {format_bytes(free)} are free", file=sys.stderr)
    if needed > free:
        most, allowed = format_bytes(needed), format_bytes(free)
        raise UserError(f"out={str(out)!r} takes at most {most}; allowed: {allowed} (fewer limit= or signals=)")


def recipe(loaded: Loaded, prompts: PromptFile, decoding: Decoding, wanted: Wanted, by: RecorderInfo) -> dict[str, Any]:
    """All that the trace depends on: a recording that was interrupted goes on only where this is the same."""
    return {
        "model": loaded.name,
        "revision": loaded.revision,
        "weights": {name: list(about) for name, about in loaded.files.items()},
        "dtype": str(loaded.model.dtype),
        "recorder": by.version,
        "device": by.device,
        "threads": torch.get_num_threads(),
        "experts_implementation": loaded.model.config._experts_implementation,
        "prompts": prompts.sha256,
        **prompts.settings,
        **decoding.settings(loaded.tokenizer),
        "signals": sorted(wanted.signals),
        "ahead": wanted.ahead,
        "licence": wanted.licence,
        "priced_as": wanted.priced_as,
    }


def collect(loaded: Loaded, prompts: PromptFile, out: Path, decoding: Decoding, wanted: Wanted) -> Path:
    """Record `prompts` into the new trace `out`; returns its path.

    Interrupted, even by kill -9, the same call goes on after the last checkpoint; on a CPU, with the same number of
    threads, the trace is the same to the byte. Raises UserError for prompts or a model that cannot be recorded, and
    for a disk that fills up. Memory: one batch, and a few bytes per prompt.
    """
    moe = inspect_model(loaded.model)
    recorder = Recorder(moe, wanted.signals, wanted.ahead)
    shapes = signal_shapes(moe, recorder.signals, wanted.ahead)
    sizes = {"n_layers": len(moe.layers), "n_experts": moe.n_experts, "top_k": moe.top_k}
    if wanted.priced_as is not None:
        check_priced_as(wanted.priced_as, **sizes)
    by = RecorderInfo("traces.collect", recorder_version(), device_name(input_device(loaded.model)))
    own = prompts.stating_length
    exceptions = {"prompts_with_own_max_new_tokens": own} if own else {}
    about: About = {
        "name": loaded.name,
        "revision": loaded.revision,
        "recorder": by,
        "decoding": {**decoding.settings(loaded.tokenizer), **exceptions},
        "recording": "recorded",
        "prompts": Prompts(prompts.name, wanted.licence or "; ".join(prompts.licences) or None),
        "expert_bytes": moe.expert_bytes(),
        "shapes": moe.shapes(),
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "scoring": moe.scoring,
        "priced_as": wanted.priced_as,
    }
    # Every prompt is planned, so that a mistake in the last one shows before the first is recorded.
    most = sum(plan(prompt, loaded, decoding).most_rows for prompt in prompts)
    first = next(groups(prompts, 0, loaded, decoding))
    with _named(moe, first):
        check_cache(moe, [job.ids for job in first])
    whole = recipe(loaded, prompts, decoding, wanted, by)
    with TraceWriter(out, **sizes, signals=shapes, recipe=whole) as writer:
        writer.check(**about)
        if writer.requests:
            print(f"going on after {writer.requests} requests, {writer.tokens} tokens", file=sys.stderr)
        check_disk(out, moe, shapes, most - writer.tokens)
        last = _record(recorder, writer, loaded, prompts, decoding, most)
        writer.close(**about)
    print(f"wrote {out}", file=sys.stderr)
    if wanted.overhead_s and last:
        print(measure_overhead(recorder, last, wanted.overhead_s), file=sys.stderr)
    return out


def _record(
    recorder: Recorder, writer: TraceWriter, loaded: Loaded, prompts: PromptFile, decoding: Decoding, most: int
) -> list[Job]:
    """Record what is missing, batch by batch; returns the last batch."""
    end: Collection[int] = () if decoding.decoding == "teacher_forced" else end_tokens(loaded)
    progress = Progress(writer, len(prompts), most)
    saved_s = time.monotonic()
    last: list[Job] = []
    with showing(progress.state, TOLD_EVERY_S), recorder.attached(), torch.inference_mode():
        for jobs in groups(prompts, writer.requests, loaded, decoding):
            rows = writer.tokens
            with _named(recorder.moe, jobs):
                served = serve(recorder, jobs, end)
            for request, steps, arrays in served:
                writer.add_request(request, steps=steps, **arrays)
            if time.monotonic() - saved_s >= CHECKPOINT_S:
                writer.checkpoint()
                saved_s = time.monotonic()
            progress.most_rows -= sum(job.most_rows for job in jobs) - (writer.tokens - rows)
            last = jobs
    print(progress.state()[1], file=sys.stderr)
    return last


class Progress:
    """How far a recording is; what an earlier run recorded counts as done, but not in the rate.

    `most_rows`: what all requests record at most. The time left is what that would take: it shrinks in jumps, as
    `most_rows` does where answers end early.
    """

    def __init__(self, writer: TraceWriter, requests: int, most_rows: int) -> None:
        self.most_rows, self._requests = most_rows, requests
        self._writer, self._before, self._began_s = writer, writer.tokens, time.monotonic()

    def state(self) -> tuple[float, str]:
        """The share of the rows, and a line, as traces.kit.telling.showing has them."""
        done, rows = self._writer.requests, self._writer.tokens
        seconds, here = time.monotonic() - self._began_s, rows - self._before
        line = f"recorded {done}/{self._requests} requests, {rows} tokens"
        if here:
            line += f", {here / max(seconds, 1e-9):.0f} tokens/s"
        if here and done < self._requests:
            line += f", at most {left(here, self.most_rows - self._before, seconds)} left"
        return rows / max(1, self.most_rows), line


@contextmanager
def _named(moe: MoeModel, jobs: list[Job]) -> Iterator[None]:
    """Within this block a RecordingError also says of which model, and at which prompts."""
    try:
        yield
    except RecordingError as error:
        config = moe.model.config
        where = f"{config.model_type} in {config.dtype}, {jobs[0].prompt.where}"
        batch = f" and the {len(jobs) - 1} after it" if len(jobs) > 1 else ""
        raise RecordingError(f"{error} ({where}{batch})") from error


def measure_overhead(recorder: Recorder, jobs: Sequence[Job], within_s: float) -> str:
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
        plain_s = _timed(lambda: _generate(recorder.moe.model, prompts, new_tokens))
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


def _generate(model: Any, prompts: Sequence[list[int]], new_tokens: int) -> None:
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
