"""Which engines are to run, and how they are: one process each, one after the other, within a time; what came of it."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import yaml

from real.beside.child import AskedError, Job, as_json
from real.words import one_run, throughout
from traces.kit import conf
from traces.kit.errors import UserError
from traces.version import __version__

SCHEMA = 1
OTHERS = {
    "resident": "transformers, all on the device",
    "cpu_offload": "transformers, accelerate's cpu_offload",
    "disk_offload": "transformers, accelerate's disk_offload",
}
"""By engine, what its row is called."""
ASKED = (
    *("model", "dtype", "weights", "layers", "device", "threads", "host_memory"),
    *("prompts", "limit", "prompt_tokens", "new_tokens", "repeat"),
)
"""What a job has of its plan."""
SLOW = ("cpu_offload", "disk_offload")
Ask = Callable[[Job, float], dict[str, Any]]


@dataclass(frozen=True)
class Plan:
    """The rows, and what all engines are asked. ``ours``: (preset, budget); ``policies``: by preset its mapping;
    ``hardware``: whose prices policies are told; ``priced``: the model's profile. ``others``: of OTHERS."""

    ours: tuple[tuple[str, str], ...]
    policies: Mapping[str, Mapping[str, Any]]
    hardware: Mapping[str, Any]
    priced: Mapping[str, Any]
    model: str
    dtype: str
    prompts: str
    device: str = "auto"
    threads: int = 0
    host_memory: int | None = None
    weights: str = "auto"
    layers: int | None = None
    limit: int = 4
    prompt_tokens: int = 128
    new_tokens: int = 32
    repeat: int = 3
    others: tuple[str, ...] = tuple(OTHERS)
    offload_tokens: int | None = None
    """Instead of ``new_tokens`` where accelerate offloads, and one round: on a GPU each takes seconds."""
    history: str = "sample"
    """The trace whose train requests a policy learns from."""

    def jobs(self) -> Iterator[tuple[dict[str, Any], Job]]:
        """What a row says of its engine, and the job."""
        asked = {key: getattr(self, key) for key in ASKED}
        for engine in self.others:
            fewer = {"new_tokens": self.offload_tokens, "repeat": 1} if self.offload_tokens and engine in SLOW else {}
            yield {"name": OTHERS[engine], "engine": engine} | fewer, Job(engine, None, scratch="", **asked | fewer)
        for name, budget in self.ours:
            config = one_run(name, budget, self.priced, self.hardware, self.history)
            config = throughout(replace(config, policy=dict(self.policies[name])))
            row = {"name": f"ours, {name} at {budget}", "engine": "ours", "policy": name, "budget": budget}
            yield row, Job("ours", asdict(config), scratch="", **asked)


def preset(name: str) -> dict[str, Any]:
    """A policy of conf/policy, with its parameters."""
    found: dict[str, Any] = yaml.safe_load((conf.FOLDER / "policy" / f"{name}.yaml").read_text(encoding="utf-8"))
    return found


def run(plan: Plan, seconds: float, say: Callable[[str], None], ask: Ask | None = None) -> dict[str, Any]:
    """All rows that the time allows; what is left out stands in ``left_out``, with why. UserError where all are,
    and for what is wrong for all.

    ``ask``: has a job run in a process of its own, within so many seconds.
    """
    ask = ask or in_a_process
    end, longest = time.monotonic() + seconds, 0.0
    found: dict[str, Any] = {"schema": SCHEMA, "rows": [], "left_out": {}}
    answers: list[dict[str, Any]] = []
    jobs = list(plan.jobs())
    for row, job in sorted(jobs, key=lambda it: it[1].engine in SLOW):  # what takes the longest comes last
        began = time.monotonic()
        if end - began < longest:
            found["left_out"][row["name"]] = f"{max(0.0, end - began):.0f} s were left"
            continue
        try:
            answer = ask(job, end - began)
        except AskedError:
            raise
        except UserError as error:
            found["left_out"][row["name"]] = str(error)
            say(f"no row for {row['name']}: {error}")
            continue
        longest = max(longest, time.monotonic() - began)
        answers.append(answer)
        found["rows"].append(row | _judged(answer, answers[0]))
        say(f"{row['name']}: {found['rows'][-1]['decode_per_s']['median']:.3g} tokens/s")
    if not answers:
        raise UserError("; ".join(dict.fromkeys(found["left_out"].values())))
    about = {key: getattr(plan, key) for key in ("model", "dtype", "weights", "new_tokens", "repeat", "threads")}
    places = {row["name"]: place for place, (row, _) in enumerate(jobs)}
    found["rows"].sort(key=lambda row: places[row["name"]])
    first = {key: answers[0][key] for key in ("date", "about", "prompt_tokens")}
    return found | about | {"version": __version__, "hardware": plan.hardware.get("name"), **first}


def _judged(answer: Mapping[str, Any], first: Mapping[str, Any]) -> dict[str, Any]:
    """A row: rates of the rounds, memory, and whether the tokens are those of the first row."""
    tokens, prompts = sum(map(len, answer["tokens"])), len(answer["tokens"])
    pairs = [pair for both in zip(answer["tokens"], first["tokens"], strict=True) for pair in zip(*both, strict=False)]
    return {
        "decode_per_s": _spread([(tokens - prompts) / it["decode"] for it in answer["seconds"]]),
        "whole_per_s": _spread([tokens / it["whole"] for it in answer["seconds"]]),
        "memory": answer["memory"],
        "same_tokens": sum(a == b for a, b in pairs) / len(pairs),
        "steady": answer["steady"],
    }


def _spread(rates: list[float]) -> dict[str, float]:
    found = {"median": statistics.median(rates), "least": min(rates), "most": max(rates)}
    return {key: float(f"{rate:.5g}") for key, rate in found.items()}


def in_a_process(job: Job, seconds: float) -> dict[str, Any]:
    """What the job's own process says. UserError where the engine cannot be had, fails, or is late."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    command = [sys.executable, "-P", "-m", "real.beside.child"]
    with tempfile.TemporaryDirectory(prefix="moe-offload-") as scratch:
        try:
            done = subprocess.run(  # noqa: S603
                command,
                input=as_json(replace(job, scratch=scratch)),
                env={**os.environ, "PYTHONPATH": path},
                capture_output=True,
                text=True,
                check=False,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired:
            raise UserError(f"not done in the {seconds:.0f} s that were left") from None
    try:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or ["without a word"])[-1]
        raise UserError(f"its process ended with status {done.returncode}: {last[:200]}") from None
    if "error" in found:
        raise (AskedError if found.get("of_all") else UserError)(found["error"])
    return found
