"""The answer for one machine: what each policy needs and gives, over which range, and what would help. Plain data."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sim.experiment.declared import declared
from sim.plan.cells import Figures, Found, Runner
from sim.plan.needs import needs_of
from sim.plan.question import Question, lossless, meets, reads, settings, value
from sim.plan.search import Least, least, rungs, size, together
from sim.prices import own_title, title_of
from sim.prices.costs import Costs
from sim.prices.peers import ACTIVATION_BYTES
from traces.kit.errors import UserError

SHORTLIST = ("lru", "lru_layer", "lfru", "gate_ahead", "static", "static_split", "fiddler", "split", "split_prompts")
"""Policies that are tried: those shipped that lead some table of ours, or that people run under other names."""
LOSSY = ("swapmoe_uniform",)
"""Tried at the full room, and never ranked with the others."""
USUAL = Path("outputs")
"""Where results go that a command says nothing of."""

Answer = dict[str, Any]


def answer(question: Question, policies: Sequence[str], traces: Mapping[str, Sequence[str]], runner: Runner) -> Answer:
    """What is so on one machine. ``traces``: by kind of routing, one per seed; the plan is of the first.

    UserError where no policy has the latency that is asked about.
    """
    said = about(question, next(iter(traces)))
    lacking = question.missing > question.from_disk
    if lacking or question.capacity < question.least:
        said["verdict"] = "no host memory" if lacking else "no room"
        said["needs"] = needs_of(question, [], [], next(iter(traces.values()))[0], runner)
        if lacking:
            said["instead"] = _instead(question, policies, traces, runner)
        return said
    trace = next(iter(traces.values()))[0]
    exact = [name for name in policies if lossless(name)]
    grid = rungs(question.most, question.capacity)
    top = min(question.capacity, question.most)
    budgets = sorted({*(size(number, question.most) for number in grid), top})
    cells = _cells(question, exact, budgets, trace, runner)
    least_of = _least(question, exact, grid, cells, trace, runner) if question.goal else {}
    said["policies"] = [_policy(question, name, cells[name], top, least_of.get(name)) for name in exact]
    said["lossy"] = [_lossy(name, found, question) for name, found in _at(question, policies, top, trace, runner)]
    able = [row for row in said["policies"] if row["best"] is not None]
    if not able:
        why = next((row["why"] for row in said["policies"] if row["why"]), "")
        metric = question.goal.metric if question.goal else "tpot"
        raise UserError(why or f"target: the trace tells no {metric}; allowed: one with the steps that it is of")
    _spread(question, [(row["policy"], row["best"]) for row in able], traces, runner)
    # A recall that nobody measured is shown, and wins nothing that others can win.
    ranked = [row for row in able if question.lengths is None or not row["reads"]] or able
    best = min(ranked, key=lambda row: (row["best"]["ms"], row["best"]["budget_bytes"]))
    said["best"] = best["best"] | _commands(question, best["policy"], best["best"], trace, runner.out)
    met = [row for row in ranked if row["least"] is not None]
    said["verdict"] = "speed" if question.goal is None else "meets" if met else "misses"
    if met:
        row = min(met, key=lambda row: (row["least"]["budget_bytes"], row["least"]["ms"]))
        _spread(question, [(row["policy"], row["least"])], traces, runner)
        said["least"] = row["least"] | _commands(question, row["policy"], row["least"], trace, runner.out)
    if question.from_disk:
        said["instead"] = _instead(question, policies, traces, runner)
    if question.goal is not None and not met:
        order = [row["policy"] for row in sorted(ranked, key=lambda row: row["best"]["ms"])]
        said["needs"] = needs_of(question, order, [n for n in order if _on_host(cells[n])], trace, runner)
    return said


def _instead(
    question: Question, policies: Sequence[str], traces: Mapping[str, Sequence[str]], runner: Runner
) -> Answer | None:
    """The answer in the widest dtype in which the host has all experts; None where there is none."""
    fits = [dtype for dtype in question.narrower if not question.in_dtype(dtype).missing]
    return answer(question.in_dtype(fits[0]), policies, traces, runner) if fits else None


def about(question: Question, kind: str) -> Answer:
    """What is known before anything is run."""
    hardware, model, lengths = question.hardware, question.model, question.lengths
    costs = Costs(model, hardware, question.dtype, question.spread)
    drawn = 0 if lengths is None else lengths.prompt + lengths.output
    longer = costs.dense_ns(1, question.context, question.context) - costs.dense_ns(1, drawn, drawn)
    host = {"given": question.host_memory, "needed": question.total, "missing": question.missing}
    return {
        "hardware": hardware.name,
        "machine": _machine(question),
        "host": next((word.partition("=")[2] for word in question.words if word.startswith("host=")), None),
        "figures": hardware.provenance,
        "inferred": list(hardware.inferred),
        "model": model.name,
        "model_title": own_title("model", model).get("title") or title_of("model", model.name),
        "dtype": question.dtype,
        "context": question.context,
        "batch": question.batch,
        "expert_bytes": question.total,
        "gpus": hardware.gpus,
        "placement": question.base.placement if hardware.gpus > 1 else None,
        "room": asdict(question.room),
        "capacity_bytes": question.capacity,
        "most_bytes": question.most,
        "host_memory": None if question.unified else host,
        "unified": question.unified,
        "from_disk": question.from_disk,
        "routing": kind,
        "lengths": None if lengths is None else asdict(lengths),
        "attention_ms_of_the_rest": None if lengths is None else longer * model.moe_layers / 1e6,
        "target": question.goal and question.goal.text,
        "target_ms": question.goal and question.goal.ms,
        "metric": question.goal.metric if question.goal else "tpot",
        "part": question.goal.part if question.goal else "mean",
        "words": list(question.words),
        "verdict": None,
        "policies": [],
        "lossy": [],
        "best": None,
        "least": None,
        "needs": [],
        "instead": None,
    }


def _machine(question: Question) -> str:
    """What people call it; as many of a card as were asked for by hardware.gpus=."""
    hardware = question.hardware
    title = own_title("hardware", hardware).get("title") or title_of("hardware", hardware.name)
    if not any(word.startswith("hardware.gpus=") for word in question.words):
        return title
    one = re.sub(r"^\d+ x ", "", title)
    return f"{hardware.gpus} x {one}" if hardware.gpus > 1 else one


def _cells(
    question: Question, names: Sequence[str], budgets: Sequence[int], trace: str, runner: Runner
) -> dict[str, dict[int, Found]]:
    wanted = [(name, budget) for name in names for budget in budgets]
    found = runner.run([question.cell(name, budget, trace) for name, budget in wanted])
    cells: dict[str, dict[int, Found]] = {name: {} for name in names}
    for (name, budget), one in zip(wanted, found, strict=True):
        cells[name][budget] = one
    return cells


def _least(
    question: Question,
    names: Sequence[str],
    grid: Sequence[int],
    cells: dict[str, dict[int, Found]],
    trace: str,
    runner: Runner,
) -> dict[str, Least]:
    """The least step of the grid that meets the target, by policy; what was looked at is put into ``cells``.

    A policy that meets it with the whole room alone, and on no step, is none of these.
    """
    searches = {}
    for name in names:
        good = [number for number in grid if meets(cells[name][size(number, question.most)], question)]
        if good:
            before = [number for number in grid if number < good[0]]
            searches[name] = least(before[-1] if before else 0, good[0], grid[-1])

    def ask(numbers: Mapping[str, int]) -> dict[str, bool]:
        wanted = {name: size(number, question.most) for name, number in numbers.items()}
        found = runner.run([question.cell(name, budget, trace) for name, budget in wanted.items()])
        for (name, budget), one in zip(wanted.items(), found, strict=True):
            cells[name][budget] = one
        return {name: meets(cells[name][budget], question) for name, budget in wanted.items()}

    return together(searches, ask)


def _policy(question: Question, name: str, cells: Mapping[int, Found], top: int, found: Least | None) -> Answer:
    """A policy's row: its cells, its best one, and the one of the least memory that meets the target."""
    shown = [_cell(cells[budget], question) for budget in sorted(cells)]
    known = [cell for cell in shown if cell is not None and cell["ms"] is not None]
    meeting = [cell for cell in known if question.goal is not None and cell["ms"] <= question.goal.ms]
    smallest = min(meeting, key=lambda cell: cell["budget_bytes"], default=None)
    above = [cell for cell in known if smallest and cell["budget_bytes"] > smallest["budget_bytes"]]
    return {
        "policy": name,
        "reads": sorted(reads(name)),
        "cells": known,
        "at_room": _cell(cells[top], question),
        "best": min(known, key=lambda cell: (cell["ms"], cell["budget_bytes"]), default=None),
        "least": smallest,
        "uneven": bool(found and found.uneven) or any(cell not in meeting for cell in above),
        "why": next((why for why in cells.values() if isinstance(why, str)), None),
    }


def _cell(found: Found, question: Question) -> Answer | None:
    """A cell as it is shown; None where it cannot be."""
    if isinstance(found, str):
        return None
    latency = {name: spread and spread["mean"] for name, spread in found.latency_ms.items()}
    return {
        "budget_bytes": found.budget_bytes,
        "ms": value(found, question),
        "tpot_ms": latency["tpot"],
        "ttft_ms": latency["ttft"],
        "tokens_per_s": None if not latency["tpot"] else 1000 * question.batch / latency["tpot"],
        "hits": found.hits,
        "on_host": found.on_host,
    }


def _spread(
    question: Question,
    each: Sequence[tuple[str, Answer]],
    traces: Mapping[str, Sequence[str]],
    runner: Runner,
) -> None:
    """Put into each cell, with the policy that it is of, the range of its figure over seeds and kinds of routing."""
    where = [(kind, seed, trace) for kind, found in traces.items() for seed, trace in enumerate(found)]
    # Of a trace that was given a seed is another order of its requests; drawn ones have theirs in what was drawn.
    orders = [seed if question.lengths is None else 0 for _, seed, _ in where]
    found = runner.run(
        [
            question.cell(name, cell["budget_bytes"], trace, order)
            for name, cell in each
            for (_, _, trace), order in zip(where, orders, strict=True)
        ]
    )
    for place, (_, cell) in enumerate(each):
        own = found[place * len(where) : (place + 1) * len(where)]
        cell["range"] = [
            {"routing": kind, "seed": seed, "ms": value(one, question)}
            for (kind, seed, _), one in zip(where, own, strict=True)
        ]
        known = [one["ms"] for one in cell["range"] if one["ms"] is not None]
        cell["low_ms"], cell["high_ms"] = min(known), max(known)


def _commands(question: Question, name: str, cell: Answer, trace: str, out: Path) -> Answer:
    """What runs a cell, simulated and on a device."""
    rest = [] if out == USUAL else [f"out={out}"]
    words = [f"policy={name}", f"budget={cell['budget_bytes']}", f"trace={trace}", *question.run_words, *rest]
    real = ["python", "-m", "real", "run", *_on_device(question, name, cell["budget_bytes"], trace)]
    return {
        "policy": name,
        "run": ["python", "-m", "sim", "run", *words],
        "real": real if _runs_on_device(question) else None,
    }


def _runs_on_device(question: Question) -> bool:
    """It has one GPU, all experts in host memory, and no kernel there computes in other dtypes."""
    return question.dtype in ACTIVATION_BYTES and question.hardware.gpus == 1 and not question.from_disk


def _on_device(question: Question, name: str, budget: int, trace: str) -> list[str]:
    """The words of ``python -m real run``: the checkpoint by its published name, prompts of the user's own."""
    own = question.model.name
    source = re.match(r"[\w.-]+/[\w.-]+(?= )", question.model.source)
    published = own if own == "tiny-moe" else source[0] if source else "CHECKPOINT"
    rest = [word for word in question.words if not word.startswith(("model=", "model.dtype=", "warmup="))]
    history = [f"trace={trace}"] if declared(settings(name)).wants_history() else []
    return [f"policy={name}", f"budget={budget}", f"model={published}", *rest, *history, "prompts=FILE.jsonl"]


def _lossy(name: str, found: Found, question: Question) -> Answer:
    cell = _cell(found, question)
    damage = found.damage if isinstance(found, Figures) else None
    return {"policy": name, "at_room": cell, "damage": damage, "why": found if isinstance(found, str) else None}


def _at(question: Question, names: Sequence[str], top: int, trace: str, runner: Runner) -> list[tuple[str, Found]]:
    """The lossy policies at the full room."""
    lossy = [name for name in tried(names) if not lossless(name)]
    return list(zip(lossy, runner.run([question.cell(name, top, trace) for name in lossy]), strict=True))


def tried(names: Sequence[str]) -> list[str]:
    """Those that were named, or the shortlist and the usual lossy one."""
    return [*names, *LOSSY] if tuple(names) == SHORTLIST else [*names]


def _on_host(cells: Mapping[int, Found]) -> bool:
    return any(isinstance(found, Figures) and found.on_host for found in cells.values())
