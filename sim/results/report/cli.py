"""``python -m sim report DIR``: compare the runs, draw them, write one HTML page that needs nothing else."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from sim.results.compare.cli import Chosen, compared
from traces.kit.errors import UserError
from traces.kit.units import counted
from traces.kit.whole import writable, write_whole
from traces.kit.words import words_of

if TYPE_CHECKING:
    from sim.results.compare import Comparison

FILE = "report.html"
HEADINGS = {
    "latency": "Latency and the bound",
    "front": "Lossy policies",
    "stalls": "Where the time goes",
    "hits": "Hit rates",
    "fates": "Prefetches",
    "link": "The link",
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
    " reference rows cheat, and show how much cheating would help; lossy policies change the model's output."
)


@dataclass(frozen=True, kw_only=True)
class Options(Chosen):
    """One HTML page of the runs below DIR: the tables of compare, pictures, what may
    be concluded and what not, where every row comes from and the command that makes
    it again. It holds its pictures and loads nothing. Beside it lies the table of
    the runs as CSV, under the same name.

    {keys}

    Any other KEY=VALUE chooses runs, as for compare.

      python -m sim report outputs
      python -m sim report outputs target='tpot<=30ms' policy=lru,fmoe out=two.html
    """

    out: Annotated[Path | None, "the page; without it report.html in DIR"] = None


def write_report(options: Options, again: Callable[[Path], Callable[[str, str], str]]) -> None:
    """Run the command. ``again``: of DIR, what says how to make a run again (see build)."""
    root = Path(options.folder)
    target = options.out or root / FILE
    if root.is_file():
        raise UserError(f"{root}: a folder of results is wanted; a table of runs has neither layers nor requests")
    _writable(target)
    found = compared("report", options)
    beside = target.with_suffix(".csv")
    content, missing = build(found, root, words_of(options), beside.name, again(root))
    with writable(f"out={target}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(beside, data(found))
        write_whole(target, content)
    for line in missing:
        sys.stderr.write(f"not drawn: {' '.join(line.split())}\n")
    sys.stderr.write(f"wrote {target}: {counted(len(found.runs), 'run')}, {len(content):,} bytes\n")


def build(
    found: Comparison, root: Path, words: Sequence[str], beside: str, again: Callable[[str, str], str]
) -> tuple[bytes, list[str]]:
    """The page of a comparison of runs below ``root``, and what could not be drawn. No clock: same runs, same page.

    ``beside``: the name of the file that holds :func:`data`; ``again``: of folder and source, how to make a run again.
    """
    import shlex

    from sim.results.columns import LATENCY_NAMES
    from sim.results.compare.conclude import conclude, limits
    from sim.results.compare.table import meanings
    from sim.results.pictures.findings import about
    from sim.results.report import tables
    from sim.results.report.draw import draw
    from sim.results.report.opening import opening
    from sim.results.report.page import Page

    runs = found.runs
    page = Page(f"{LATENCY_NAMES[found.metric]} of offloading policies: {about(runs)}")
    page.text(opening(found), "first")
    page.text(
        f"{counted(len(runs), 'run')} of {counted(runs['policy_label'].nunique(), 'policy', 'policies')} at"
        f" {counted(runs['budget_bytes'].nunique(), 'budget')}. {INTRODUCTION}"
    )
    page.link("The runs as a table, with the intervals of the figures below: ", beside, ".")
    page.contents()
    page.heading("What may be concluded")
    page.points(conclude(found) or ["Nothing: there is no second policy or budget to compare with."])
    page.heading("What may not")
    page.points(limits(found))
    page.heading("Comparison")
    for lossless in (True, False):
        tables.comparison(page, found, lossless)
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
    tables.runs(page, found)
    tables.nulls(page, found)
    page.heading("Where every row comes from")
    page.points(tables.common(found))
    tables.origin(page, found, again)
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


def _writable(target: Path) -> None:
    """UserError before the work, not after it, where the page cannot be written."""
    if target.is_dir():
        raise UserError(f"out={target}: a folder; allowed: a file, such as {target / FILE}")
    if target.suffix == ".csv":
        raise UserError(f"out={target}: the table of the runs takes that name; allowed: such as {target.stem}.html")
    folder = target.parent
    if folder.exists() and not os.access(folder, os.W_OK):
        raise UserError(f"out={target}: cannot be written (no permission for {folder})")
