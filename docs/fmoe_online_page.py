"""What docs/fmoe_online.md says, from the numbers beside it (docs/fmoe_online.py)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

FMOE, STANDIN = "fmoe", "gate_ahead"
TITLES = {
    FMOE: "fMoE",
    "moe_infinity_as_in_finemoe": "MoE-Infinity",
    "promoe_as_in_finemoe": "ProMoE",
    "mixtral_offloading_as_in_finemoe": "Mixtral-Offloading",
    "deepspeed": "DeepSpeed",
    STANDIN: "stand-in",
}
OTHERS = [name for name in TITLES if name not in (FMOE, STANDIN)]
TRACES = {"mixtral_8x7b": "Mixtral-8x7B", "sample": "recorded"}
READINGS = {
    "service": "service time only",
    "fifo": "one at a time, first come, at a stable rate",
    "batching": "continuous batching, 2.91 requests/s",
}
DEEPSPEED, INFINITY, PROMOE, MIXTRAL = "deepspeed", *OTHERS[:3]
IN_VAIN = "it prefetches a quarter of each of six layers, and the next prefetch evicts that before it is used"
KNOWS = (
    "drawn prompts hardly resemble each other, and there are few recorded ones, so that maps find few of the experts,"
    " of which a gate one or two layers ahead finds most. The stand-in is fMoE with such predictions: it is ahead on"
    " one trace at least"
)
CAUSES: dict[tuple[str, str, str], str] = {
    **{(reading, DEEPSPEED, "reproduced"): "it copies whole layers, in a cyclic scan" for reading in READINGS},
    **{(reading, INFINITY, "reproduced"): IN_VAIN for reading in READINGS},
    **{(reading, other, "cannot be said"): KNOWS for reading in READINGS for other in (PROMOE, MIXTRAL)},
    ("batching", DEEPSPEED, "reproduced"): (
        "it copies whole layers. But the rows of a pass together want nearly all of Mixtral's eight experts in a layer,"
        " so that everybody does, and little of the gap is left there"
    ),
    ("batching", PROMOE, "cannot be said"): (
        "behind on the drawn trace, of which maps know little. Ahead on the recorded one, where ProMoE"
        " copies a third more, as it queues all that any row's gate names two layers on"
    ),
    ("batching", MIXTRAL, "refuted"): (
        "the next gate names what all rows want, and all of it is queued at once, where fMoE and the stand-in copy one"
        " expert at a time ahead (per GPU) and wait for the rest (inferred)"
    ),
}
"""Why, by reading, by whom fMoE is compared with, and by verdict."""


def shown(numbers: pd.DataFrame) -> str:
    """What the page has between its two marks."""
    tables = (table(numbers, trace, reading) for trace in TRACES for reading in READINGS)
    return "\n".join([found(numbers), orders(numbers), verdicts(numbers), overload(numbers), *tables])


def found(numbers: pd.DataFrame) -> str:
    """The answer, in words."""
    mixtral = {reading: pick(numbers, "mixtral_8x7b", reading) for reading in READINGS}
    shares = {
        reading: [100 * cells[x]["queueing_s"] / cells[x]["request_s"] for x in (FMOE, *OTHERS)]
        for reading, cells in mixtral.items()
    }
    fmoe = {reading: cells[FMOE] for reading, cells in mixtral.items()}
    every = [order(pick(numbers, trace, reading)) for trace in TRACES for reading in READINGS]
    places = sorted({its.index(FMOE) + 1 for its in every})
    last = sum(its[-1] == DEEPSPEED for its in every)
    lines = (
        f"Of the five, fMoE is number {' or '.join(map(str, places))} in all six, by trace and reading, and DeepSpeed"
        f" the last in {last}. The reading changes the seconds and the gaps; the order it hardly changes.",
        f"Of a request's time with Mixtral, waiting takes {_range(shares['service'])} by service time only,"
        f" {_range(shares['fifo'])} one at a time (from the fastest system to the slowest, at one rate), and"
        f" {_range(shares['batching'])} in continuous batching.",
        f"A request of Mixtral's takes fMoE {three(fmoe['service']['request_s'])},"
        f" {three(fmoe['fifo']['request_s'])} and {three(fmoe['batching']['request_s'])} s. Batching comes nearest to"
        " the 150 to 200 s of its figure; but its own engine may have been as slow without any (fmoe_testbed.md), so"
        " which reading was meant *cannot be said*. One server at that rate it was not.",
    )
    return "## What comes out\n\n" + "\n".join(f"- {line}" for line in lines) + "\n"


def _range(percent: Sequence[float]) -> str:
    low, high = round(min(percent)), round(max(percent))
    return f"{low} %" if low == high else f"{low} to {high} %"


def pick(numbers: pd.DataFrame, trace: str, reading: str) -> dict[str, dict[str, Any]]:
    """By system, its row."""
    rows = numbers[(numbers["trace"] == trace) & (numbers["reading"] == reading)].to_dict("records")
    return {row["system"]: row for row in rows}


def table(numbers: pd.DataFrame, trace: str, reading: str) -> str:
    """Latencies of all systems in one reading."""
    cells = pick(numbers, trace, reading)
    first = next(iter(cells.values()))
    rows = []
    for name, row in cells.items():
        waits = 100 * row["queueing_s"] / row["request_s"]
        figures = [row["request_s"], row["p50_s"], row["p99_s"], row["queueing_s"], row["ttft_s"], row["tpot_ms"]]
        rows.append((TITLES[name], *map(three, figures), f"{waits:.0f} %", f"{100 * row['complete']:.0f}"))
    rate = "" if reading == "service" else f", {first['rate']:g} requests/s"
    title = f"{TRACES[trace]}: {READINGS[reading].partition(',')[0]} ({first['requests']} requests{rate})"
    columns = "", "request, s", "p50", "p99", "waits, s", "TTFT, s", "TPOT, ms", "share waited", "hits, %"
    return _table(title, columns, rows)


def order(cells: dict[str, dict[str, Any]]) -> list[str]:
    """The five by mean request latency, the fastest first."""
    return sorted((FMOE, *OTHERS), key=lambda name: float(cells[name]["request_s"]))


def orders(numbers: pd.DataFrame) -> str:
    """The five in each reading, the fastest first."""
    rows = []
    for trace, its in TRACES.items():
        for reading, said in READINGS.items():
            cells = pick(numbers, trace, reading)
            rows.append((its, said, ", ".join(TITLES[name] for name in order(cells))))
    return _table("The order, the fastest first", ("", "reading", "by mean request latency"), rows)


def verdicts(numbers: pd.DataFrame) -> str:
    """Whether fMoE is ahead of each, as its figure shows, with the cause."""
    rows, causes = [], dict[tuple[str, str], list[str]]()
    for reading, read in READINGS.items():
        for other in OTHERS:
            gaps, standin = [], []
            for trace in TRACES:
                cells = pick(numbers, trace, reading)
                gaps.append(gap(cells, FMOE, other))
                standin.append(gap(cells, STANDIN, other))
            said = verdict(gaps, standin)
            rows.append((read.partition(",")[0], TITLES[other], *map(_percent, (*gaps, *standin)), f"*{said}*"))
            why = CAUSES.get((reading, other, said), "nobody has looked for the cause")
            causes.setdefault((said, why), []).append(f"{read.partition(',')[0]}, against {TITLES[other]}")
    columns = (
        "reading",
        "against",
        *TRACES.values(),
        *(f"stand-in, {name}" for name in TRACES.values()),
        "fMoE is ahead",
    )
    said_of = [f"- {'; '.join(of)}: *{said}*. {why[0].upper()}{why[1:]}." for (said, why), of in causes.items()]
    return _table("Mean request latency against each", columns, rows) + "\nWhy:\n\n" + "\n".join(said_of) + "\n"


def gap(cells: dict[str, dict[str, Any]], system: str, other: str) -> float:
    """By how many percent a request of ``system`` takes longer."""
    return float(100 * (cells[system]["request_s"] / cells[other]["request_s"] - 1))


def verdict(gaps: Sequence[float], standin: Sequence[float]) -> str:
    """What the page says of "fMoE is ahead", by the gaps on each trace."""
    if max(gaps) < 0:
        return "reproduced"
    return "refuted" if min(*gaps, *standin) >= 0 else "cannot be said"


def overload(numbers: pd.DataFrame) -> str:
    """What the stated rate would be for a single server."""
    cells = pick(numbers, "mixtral_8x7b", "service")
    rate = float(pick(numbers, "mixtral_8x7b", "batching")[FMOE]["rate"])
    rows = [(TITLES[name], three(row["request_s"]), f"{rate * row['request_s']:.0f}") for name, row in cells.items()]
    return _table(f"One server at {rate:g} requests/s", ("", "a request takes, s", "its load (1: all of it)"), rows)


def three(value: float) -> str:
    """Three figures, without an exponent."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return f"## {title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _percent(value: float) -> str:
    return f"{round(value):+d} %" if round(value) else "0 %"
