"""The tables of a report: those of ``sim compare``, a row per run with its figures, and where every row comes from."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sim.results.columns import REFERENCE_ROWS
from sim.results.compare import Comparison
from sim.results.compare.table import heads_of, lines_of
from sim.results.report.page import Page
from sim.results.titles import titles
from traces.kit.units import format_bytes

Row = tuple[str, Sequence[str]]

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


def comparison(page: Page, found: Comparison, lossless: bool) -> None:
    """The table that ``sim compare`` prints of one class, if it has rows."""
    if not (found.cells["lossless"] == lossless).any():
        return
    caption = "lossless policies" if lossless else "lossy policies: another class, not ranked with those"
    page.table(heads_of(found, lossless), lines_of(found, lossless), caption)


def runs(page: Page, found: Comparison) -> None:
    """A row per run with its own figures."""
    heads = ["policy", "budget", "seed", *(head for head, _, _ in FIGURES), "folder"]
    rows = []
    for run in found.runs.to_dict("records"):
        figures = [_number(run[column], factor) for _, column, factor in FIGURES]
        rows.append(("", [*_who(run), *figures, str(run["folder"])]))
    page.table(heads, rows, "one row per run; -: null; the table below says why")


def nulls(page: Page, found: Comparison) -> None:
    """What is null in the results, and why: one line per reason."""
    why: dict[tuple[str, str], set[str]] = {}
    for label, text in zip(found.runs["policy_label"], found.runs["nulls"], strict=True):
        for name, reason in json.loads(text).items():
            why.setdefault((str(name), str(reason)), set()).add(str(label))
    rows = [("", [name, reason, ", ".join(sorted(of))]) for (name, reason), of in sorted(why.items())]
    if rows:
        page.table(["figure", "is null because", "policies"], rows, kind="text")


def origin(page: Page, found: Comparison, again: Callable[[str, str], str]) -> None:
    """Where every row comes from (rule 9), and the command that makes it again: ``again`` of its folder and source."""
    rows: list[Row] = []
    commands: list[Row] = []
    for run in found.runs.to_dict("records"):
        predictors = ", ".join(f"{n} {sha[:12]}" for n, sha in json.loads(run["predictors"]).items()) or "none"
        source = str(run["source"]) + (f", {run['device']}, {run['device_date']}" if run["source"] == "device" else "")
        hashes = [str(run[name]) for name in ("cell", "code", "decision_digest")]
        rows.append(("", [*_who(run), source, *hashes, predictors, str(run["folder"])]))
        commands.append(("", [*_who(run), f"`{again(str(run['folder']), str(run['source']))}"]))
    caption = "one row per run; cell: hash of configuration and code; decisions: hash of every decision of the policy"
    page.table(ORIGIN, rows, caption, "text")
    page.table(("policy", "budget", "seed", "to make it again"), commands, kind="text")


def common(found: Comparison) -> Iterator[str]:
    """What all rows share: compare refuses runs in which it differs."""
    first = found.runs.iloc[0]
    decoding = str(first["decoding"]).replace("_", " ")
    said = titles({str(key): value for key, value in first.items()})
    yield f"Trace {first['trace']}: {first['recording']}, {decoding}, routing of {said.routing}."
    yield f"Priced as {said.priced_as} in {first['dtype']} (profile {first['model_sha']}); compute: {first['compute']}."
    yield f"Machine {first['hardware']} (profile {first['hardware_sha']}): {first['figures']} figures."
    yield (
        f"Measured: {first['measured_requests']}; batch {first['batch']}, {first['chunks']} copies per expert,"
        f" {first['warmup']} requests of warm-up."
    )
    if found.runs["bound_bytes"].notna().any():
        bounds = "bounds belady_bypass and time_lower_bound"
        yield f"Reference rows {', '.join(REFERENCE_ROWS)}, {bounds}: of the same requests and budgets."
    else:
        yield "Bounds and reference rows: none; the table of what is null says why."


def _who(run: dict[Any, Any]) -> list[str]:
    label = f"{run['policy_label']}{'' if run['lossless'] else ' (lossy)'}"
    return [label, format_bytes(int(run["budget_bytes"])), str(run["seed"])]


def _number(value: Any, factor: float) -> str:
    number = float("nan") if value is None else float(value) * factor
    return "-" if math.isnan(number) else f"{number:#.4g}".rstrip(".")
