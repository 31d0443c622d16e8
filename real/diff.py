"""Where two runs part: the first fact at which their logs differ, times left aside, in words.

The machines have clocks of their own, so that the order of facts differs long before a decision does. Three sequences
are compared: all facts in their order; the copies alone, which are what the policy decided; and the experts alone, in
the order in which they were computed.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from sim.core.log import CHUNK, EXPERT, GATE, HOST, PREDICTION, QUESTIONS, STEP, STEP_END, entries
from sim.core.state import CoreError
from traces.kit.errors import UserError
from traces.kit.strict import dump_json
from traces.kit.units import counted
from traces.kit.vocabulary import Format
from traces.kit.words import Between


@dataclass(frozen=True)
class Fact:
    """One fact of a log without its time, and where it was told: the step, the layer of the last gate (-1: none)."""

    op: int
    told: Sequence[Any]
    """Its operands (sim.core.log.entries)."""
    step: int
    layer: int
    demand: Sequence[int]
    """Of the last gate: experts by number."""


def facts(log: Sequence[int]) -> Iterator[Fact]:
    """The facts of a log, without the questions. UserError if it is cut or no log."""
    step, layer, demand = 0, -1, list[int]()
    try:
        for op, operands in entries(log):
            if op in QUESTIONS:
                continue
            *told, _ = operands  # the time
            if op == GATE:
                layer, demand, _ = told
            elif op == STEP:
                step, layer, demand = told[0], -1, []
            yield Fact(op, told, step, layer, demand)
    except CoreError as error:
        raise UserError(f"{error}; allowed: a whole log of facts, as log=true keeps it") from None


def differences(logs: Mapping[str, Sequence[int]], n_experts: int, chunks: int) -> list[dict[str, Any]]:
    """The first difference of each of the three sequences; [] for two logs that tell the same.

    ``of``: facts, copies or experts; ``same_before``: how many; then by a log's name what it tells, in words.
    """
    both = [list(facts(log)) for log in logs.values()]
    found = []
    for of, wanted in (("facts", None), ("copies", CHUNK), ("experts", EXPERT)):
        one, other = ([fact for fact in side if wanted in (None, fact.op)] for side in both)
        for place, (a, b) in enumerate(zip_longest(one, other)):
            if a is None or b is None or (a.op, a.told) != (b.op, b.told):
                told = {name: in_words(x, n_experts, chunks) for name, x in zip(logs, (a, b), strict=True)}
                found.append({"of": of, "same_before": place} | told)
                break
    return found


def in_words(fact: Fact | None, n_experts: int, chunks: int) -> str:
    """What happened, and where."""
    if fact is None:
        return "nothing more"
    where = f"step {fact.step}" + (
        f", after the gate of layer {fact.layer}" if fact.layer >= 0 else ", before any gate"
    )
    if fact.op == STEP:
        step, prefill, requests, parts = fact.told
        rows, kind = sum(n for _, n in parts), "prefill" if prefill else "decode"
        return f"step {step} begins: {kind} of {_list('request', requests)}, {counted(rows, 'token')}"
    if fact.op == GATE:
        chosen = _list("expert", [x % n_experts for x in fact.demand])
        return f"step {fact.step}: the gate of layer {fact.layer} asks for {chosen}"
    if fact.op in (CHUNK, EXPERT, HOST):
        number = fact.told[0]
        x, part = divmod(number, chunks) if fact.op == CHUNK else (number, 0)
        layer, expert = divmod(x, n_experts)
        name = f"expert {expert} of layer {layer}"
        if fact.op != CHUNK:
            return f"{where}: {name} has been computed{' by the host' if fact.op == HOST else ''}"
        cut = f" (part {part + 1} of {chunks})" if chunks > 1 else ""
        asked = "which this event demands" if x in fact.demand else "which this event does not demand"
        return f"{where}: the copy of {name}{cut} has ended, {asked}"
    if fact.op == PREDICTION:
        return f"{where}: prediction {fact.told[0]} has come"
    return f"{where}: the {'step' if fact.op == STEP_END else 'warm-up'} ends"


def lines(found: Sequence[Mapping[str, Any]]) -> str:
    """The differences for a person."""
    text = []
    for it in found:
        (_, of), (_, place), *told = it.items()
        width = max(len(name) for name, _ in told)
        text += [f"{of}: the first {place} are the same, then", *(f"  {name:{width}}  {words}" for name, words in told)]
    return "\n".join(text or ["no difference: the same facts in the same order"]) + "\n"


def _list(what: str, numbers: Sequence[int]) -> str:
    return f"{what}{'s' * (len(numbers) != 1)} {', '.join(map(str, numbers))}"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Shows in words where two runs part: the first fact, the first copy and the first
    expert computed that differ, with the times left aside. Exit status: 0 where the
    logs tell the same, 1 where they differ.

    {keys}

      python -m real diff first=outputs/real-lru-... second=outputs/lru-...
    """

    first: Annotated[Path, "the folder of a run (python -m real run, python -m sim run log=true), or its log.npy"]
    second: Annotated[Path, "another one"]
    experts: Annotated[int, Between(0, 1 << 16), "per layer; 0: as the first run's result.json says"] = 0
    chunks: Annotated[int, Between(0, 1 << 30), "per expert; 0: likewise"] = 0
    format: Format = "table"


def main(options: Options) -> int:
    """Run the command; returns the exit status. UserError for what the user can mend."""
    logs = {"first": _read("first", options.first), "second": _read("second", options.second)}
    n_experts, chunks = options.experts, options.chunks
    if not n_experts or not chunks:
        said = _sizes(options.first)
        n_experts, chunks = n_experts or said[0], chunks or said[1]
    found = differences(logs, n_experts, chunks)
    sys.stdout.write(dump_json(found) if options.format == "json" else lines(found))
    return 1 if found else 0


def _read(key: str, path: Path) -> Sequence[int]:
    file = path / "log.npy" if path.is_dir() else path
    try:
        log = np.load(file, allow_pickle=False)
    except OSError as error:
        raise UserError(f"{key}={path}: no {file.name} ({error.strerror}); allowed: a run with log=true") from None
    except (ValueError, EOFError) as error:
        raise UserError(f"{key}={path}: not a log ({error}); allowed: log.npy of a run") from None
    if not isinstance(log, np.ndarray) or log.dtype != np.int64 or log.ndim != 1:
        raise UserError(f"{key}={path}: not a log; allowed: log.npy of a run, whole numbers in one row")
    found: list[int] = log.tolist()
    return found


def _sizes(path: Path) -> tuple[int, int]:
    """Experts per layer and chunks per expert, as the run's result says."""
    try:
        config = json.loads((path / "result.json").read_text(encoding="utf-8"))["config"]
        return int(config["model"]["experts"]), int(config["chunks"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"first={path}: no result.json that says how many experts and chunks there are; allowed: a run's folder,"
            " or give experts= and chunks="
        ) from None
