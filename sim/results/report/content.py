"""What stands on the page of a report: the first sentence, the sections, and tables of what was run and from where."""

from __future__ import annotations

import json
import math
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.results.classes import CAPTIONS, MARKS, best_class, by_class
from sim.results.columns import LATENCY_NAMES, REFERENCE_ROWS
from sim.results.compare.conclude import conclude, limits
from sim.results.compare.table import heads_of, lines_of, meanings
from sim.results.compare.words import milliseconds, percent
from sim.results.pictures.findings import about
from sim.results.pictures.style import named
from sim.results.report.draw import draw
from sim.results.report.page import Page
from sim.results.serving.lines import setting_of
from sim.results.titles import rests_on, titles
from traces.kit.units import counted, format_bytes

if TYPE_CHECKING:
    from sim.results.compare import Comparison


HEADINGS = {
    "latency": "Latency and the bound",
    "front": "Lossy policies",
    "stalls": "Where the time goes",
    "gap": "Where the time beyond the bound goes",
    "hits": "Hit rates",
    "fates": "Prefetches",
    "link": "The link",
    "rates": "Load",
    "shares": "KV cache or experts",
    "queue": "The queue",
    "waits": "Latencies of requests",
    "layers_prefill": "Layers, prefill",
    "layers_decode": "Layers, decode",
    "popularity": "Popularity of experts",
    "reuse": "Reuse distances",
    "measured": "Predicted against measured",
}
"""Of the pictures, by their names."""
INTRODUCTION = (
    "A Mixture-of-Experts model that does not fit on the GPU keeps its experts in host memory. A policy decides which"
    " of them are on the GPU, within a budget of its memory, and what is prefetched. TTFT: time to the first token of"
    " a request; TPOT: time per output token after it; lower is better. Bounds are what no lossless policy can beat;"
    " reference rows cheat, and show how much cheating would help; lossy policies change the model's output; those of a"
    " modified model want another model."
)
FIGURES = (
    ("TTFT ms", "ttft_ms_mean", 1),
    ("TPOT ms", "tpot_ms_mean", 1),
    ("TPOT p99 ms", "tpot_ms_p99", 1),
    ("tok/s", "throughput_tokens_per_s", 1),
    ("recall %", "hit_recall", 100),
    ("resident %", "hit_resident", 100),
    ("complete %", "hit_complete", 100),
    ("bytes %", "hit_bytes", 100),
    ("compute ms/tok", "compute_ms_per_token", 1),
    ("stall ms/tok", "stall_ms_per_token", 1),
    ("copied MB/tok", "bytes_per_token", 1e-6),
    ("link %", "link_utilisation", 100),
    ("time / bound", "bound_time_gap", 1),
    ("bytes / bound", "bound_bytes_gap", 1),
)
"""Columns of the table of runs: head, column of the frame, factor."""

ORIGIN = ("policy", "budget", "seed", "source", "cell", "code", "decisions", "predictors", "result")


def build(
    found: Comparison, root: Path, words: Sequence[str], beside: str, again: Callable[[str, str], str]
) -> tuple[bytes, list[str]]:
    """The page of a comparison of runs below ``root``, and what could not be drawn. No clock: same runs, same page.

    ``beside``: the name of the file that holds :func:`data`; ``again``: of folder and source, how to make a run again.
    """
    runs = found.runs
    page = Page(f"{LATENCY_NAMES[found.metric]} of offloading policies: {about(runs)}")
    page.text(opening(found), "first")
    page.text(
        f"{counted(len(runs), 'run')} of {counted(runs['policy_label'].nunique(), 'policy', 'policies')} at"
        f" {counted(runs['budget_bytes'].nunique(), 'budget')}. {INTRODUCTION}"
    )
    if modelled := rests_on(runs.to_dict("records")):
        page.text(f"{modelled[0].upper()}{modelled[1:]}.", "first")
    page.link("The runs as a table, with the intervals of the figures below: ", beside, ".")
    page.contents()
    page.heading("What may be concluded")
    page.points(conclude(found) or ["Nothing: there is no second policy or budget to compare with."])
    page.heading("What may not")
    page.points(limits(found))
    page.heading("Comparison")
    for output, _ in by_class(found.cells):
        page.table(heads_of(found, output), lines_of(found, output), CAPTIONS[output])
    legend = [f"{head}: {meaning}" for head, meaning in meanings(found)]
    page.text("; ".join([*legend, "in italics: reference rows, which cheat."]), "quiet")
    page.heading("Pictures")
    missing = []
    for drawn in draw(found, root):
        if drawn.panels:
            page.heading(HEADINGS[drawn.name.partition(" ")[0]], 3)
            page.pictures(drawn.panels, drawn.caption)
        else:
            missing.append(f"{drawn.name}: {drawn.why}")
    if missing:
        page.text("Not drawn:")
        page.points(missing)
    page.heading("Runs")
    _runs(page, found)
    _nulls(page, found)
    page.heading("Where every row comes from")
    page.points(_common(found))
    _origin(page, found, again)
    measured = " A device's row is measured again, and so is another." if (runs["source"] == "device").any() else ""
    page.text(
        "A command makes its row again where the code has the same hash and the trace lies where it lay; run it in the"
        f" folder in which the runs were made.{measured} This page:"
    )
    page.code(shlex.join(["python", "-m", "sim", "report", *words]))
    return page.render(), missing


def data(found: Comparison) -> bytes:
    """The runs as CSV: the columns of ``sim.load``, and the interval of the cell's metric in the two last."""
    ends = found.cells.set_index(["policy_label", "budget_bytes"])[["low", "high"]]
    ends = ends.rename(columns={end: f"{found.metric}_ms_{end}" for end in ends})
    return found.runs.join(ends, on=["policy_label", "budget_bytes"]).to_csv(index=False).encode()


def opening(found: Comparison) -> str:
    """Which mean is lowest, within what interval, and how far above the bound: at the largest budget and the smallest.

    Of lossless rows, if there are any; else of lossy ones, else of those of a modified model.
    """
    output, cells = best_class(found.cells)
    kind = f"{MARKS[output]} " if MARKS[output] else ""
    order = cells.sort_values(["value", "policy_label"], kind="stable")
    rows = order.drop_duplicates("budget_bytes").sort_values("budget_bytes").to_dict("records")
    name, alone = LATENCY_NAMES[found.metric], len(set(cells["policy_label"])) == 1
    last, first = rows[-1], rows[0]
    at, at_first = (f"At {format_bytes(int(row['budget_bytes']))}" for row in (last, first))
    has = f"the mean {name} of {kind}{last['policy_label']} is" if alone else ""
    has = has or f"{kind}{last['policy_label']} has the lowest mean {name}:"
    bound = "the bound in time per generated token"
    said = f"{at}, {has} {_figure(last, percent(found.level) + ' interval ')}{_times(last, bound)}."
    if len(rows) == 1:
        return said
    who = "it is" if first["policy_label"] == last["policy_label"] else f"it is {first['policy_label']}:"
    return f"{said} {at_first} {who} {_figure(first)}{_times(first, 'the bound')}."


def _figure(row: Mapping[Any, Any], what: str = "") -> str:
    ends = "" if math.isnan(row["low"]) else f" ({what}{milliseconds(row['low'])} to {milliseconds(row['high'])})"
    return f"{milliseconds(row['value'])} ms{ends}"


def _times(row: Mapping[Any, Any], bound: str) -> str:
    """The bound is one of the whole time of all requests, prompts included."""
    gap = row["bound_time_gap"]
    return "" if gap is None or math.isnan(gap) else f", {gap:.2f} times {bound}"


def _runs(page: Page, found: Comparison) -> None:
    """A row per run with its own figures."""
    heads = ["policy", "budget", "seed", *(head for head, _, _ in FIGURES), "folder"]
    rows = [
        ("", [*_who(run), *(_number(run[name], factor) for _, name, factor in FIGURES), str(run["folder"])])
        for run in named(found.runs).to_dict("records")
    ]
    page.table(heads, rows, "one row per run; -: null; the table below says why")


def _nulls(page: Page, found: Comparison) -> None:
    """What is null in the results, and why: one line per reason."""
    why = defaultdict[tuple[str, str], set[str]](set)
    for label, text in zip(found.runs["policy_label"], found.runs["nulls"], strict=True):
        for name, reason in json.loads(text).items():
            why[str(name), str(reason)].add(str(label))
    rows = [("", [name, reason, ", ".join(sorted(of))]) for (name, reason), of in sorted(why.items())]
    if rows:
        page.table(["figure", "is null because", "policies"], rows, kind="text")


def _origin(page: Page, found: Comparison, again: Callable[[str, str], str]) -> None:
    """Where every row comes from (rule 9), and the command that makes it again: ``again`` of its folder and source."""
    rows: list[tuple[str, Sequence[str]]] = []
    commands: list[tuple[str, Sequence[str]]] = []
    for run in named(found.runs).to_dict("records"):
        predictors = ", ".join(f"{n} {sha[:12]}" for n, sha in json.loads(run["predictors"]).items()) or "none"
        source = str(run["source"]) + (f", {run['device']}, {run['device_date']}" if run["source"] == "device" else "")
        hashes = [str(run[name]) for name in ("cell", "code", "decision_digest")]
        rows.append(("", [*_who(run), source, *hashes, predictors, str(run["folder"])]))
        commands.append(("", [*_who(run), f"`{again(str(run['folder']), str(run['source']))}"]))
    caption = "one row per run; cell: hash of configuration and code; decisions: hash of every decision of the policy"
    page.table(ORIGIN, rows, caption, "text")
    page.table(("policy", "budget", "seed", "to make it again"), commands, kind="text")


def _common(found: Comparison) -> Iterator[str]:
    """What all rows share: compare refuses runs in which it differs."""
    first = found.runs.iloc[0]
    decoding = str(first["decoding"]).replace("_", " ")
    said = titles({str(key): value for key, value in first.items()})
    yield f"Trace {first['trace']}: {first['recording']}, {decoding}, routing of {said.routing}."
    yield f"Priced as {said.priced_as} in {first['dtype']} (profile {first['model_sha']}); compute: {first['compute']}."
    yield f"Machine {first['hardware']} (profile {first['hardware_sha']}): {first['figures']} figures."
    yield (
        f"Measured: {first['measured_requests']}; {setting_of(first)}, {first['chunks']} copies per expert,"
        f" {first['warmup']} requests of warm-up."
    )
    bounds = f"Reference rows {', '.join(REFERENCE_ROWS)}, bounds belady_bypass and time_lower_bound: of the same"
    none = "Bounds and reference rows: none; the table of what is null says why."
    yield f"{bounds} requests and budgets." if found.runs["bound_bytes"].notna().any() else none


def _who(run: dict[Any, Any]) -> list[str]:
    return [str(run["name"]), format_bytes(int(run["budget_bytes"])), str(run["seed"])]


def _number(value: Any, factor: float) -> str:
    number = float("nan") if value is None else float(value) * factor
    return "-" if math.isnan(number) else f"{number:#.4g}".rstrip(".")
