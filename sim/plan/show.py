"""An answer as a page: the answer first, then what it rests on, every policy, and what would help."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from sim.plan.sentences import NAMES, basis, commands, facts, first, machine, needs, reach, spread, sure, unable
from sim.results.fitting import Row, fitted
from traces.kit.units import figure, format_bytes

RANGE = (
    "ranges are of modelled routing; other routing, a runtime's own overheads, and a colder machine lie outside them"
)


def show(answers: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print one page; of several machines a line each, and a table."""
    if len(answers) > 1:
        _machines(answers, console)
        return
    (it,) = answers
    _page(it, console)


def _page(it: Mapping[str, Any], console: Console, *, again: bool = False) -> None:
    """``again``: on what it rests has been said."""
    console.print(Text(first(it) + ".", style="bold"))
    if not again:
        console.print(Text(basis(it), style="yellow" if it["lengths"] is not None else ""))
    for line in facts(it)[-1 if again else 0 :]:
        console.print(Text(fill(line, console.width, subsequent_indent="  "), style="dim"))
    if it["best"] is not None:
        for line in sure(it):
            console.print(Text(fill(line, console.width, subsequent_indent="  ")))
    if it["policies"]:
        console.print()
        console.print(*_policies(it, console), sep="\n")
    for line in unable(it):
        console.print(Text(fill(line, console.width, subsequent_indent="  "), style="dim"))
    for row in it["lossy"]:
        console.print(Text(_lossy(row), style="magenta"))
    if it["needs"]:
        console.print(Text("\nWhat would meet it, one thing at a time", style="bold"))
        for line in needs(it):
            console.print(Text(fill(f"- {line}", console.width, subsequent_indent="  ")))
    if it["best"] is not None:
        console.print(Text(f"\n{RANGE}", style="dim"))
    for title, command in commands(it):
        console.print(Text(f"{title}:", style="dim"))
        console.print(Text(f"  {command}"), soft_wrap=True)
    if it["instead"] is not None:
        console.print(Text(f"\nIn {it['instead']['dtype']}, which is other weights and another output:", style="bold"))
        _page(it["instead"], console, again=True)


def _policies(it: Mapping[str, Any], console: Console) -> list[RenderableType]:
    """A row per policy, the best first."""
    goal = it["target"] is not None
    heads = [
        "",
        *(["least memory"] if goal else []),
        "at best",
        "TPOT ms",
        "range",
        "TTFT ms",
        "tokens/s",
        "hits %",
        "",
    ]
    rows = list[Row]()

    def order(row: Mapping[str, Any]) -> tuple[float, float]:
        least = row["least"]
        return (least["budget_bytes"] if least else float("inf"), row["best"]["ms"] if row["best"] else float("inf"))

    for row in sorted(it["policies"], key=order):
        best = row["best"]
        least = [] if not goal else [format_bytes(row["least"]["budget_bytes"]) if row["least"] else "-"]
        if best is None:
            rows.append(("dim", "", [row["policy"], *least, *[""] * 6, "cannot run here"]))
            continue
        hits = "-" if best["hits"] is None else f"{100 * best['hits']:.1f}"
        notes = [name for name, so in (("computes on the host", best["on_host"]), ("uneven", row["uneven"])) if so]
        notes += [f"modelled {name}" for name in row["reads"] if it["lengths"] is not None]
        figures = [format_bytes(best["budget_bytes"]), figure(best["tpot_ms"]), _range(best), figure(best["ttft_ms"])]
        words = [row["policy"], *least, *figures, figure(best["tokens_per_s"]), hits, ", ".join(notes)]
        rows.append(("bold" if it["best"]["policy"] == row["policy"] else "", "", words))
    said = [Text("least memory: the least that meets the target, in steps of 1/128 of all experts")] if goal else []
    if any(row["uneven"] for row in it["policies"]):
        said.append(Text("uneven: with more memory than the least it misses the target again somewhere"))
    said.append(Text(f"range: ms {NAMES[it['metric']]}, {spread(it['best'])}"))
    said = [Text(line.plain, style="dim") for line in said]
    return [*fitted(heads, rows, console, [len(heads) - 2, len(heads) - 1]), *said]


def _range(cell: Mapping[str, Any]) -> str:
    return reach(cell).replace(" to ", "..")


def _lossy(row: Mapping[str, Any]) -> str:
    if row["at_room"] is None:
        return f"lossy, not ranked: {row['policy']} cannot run here ({row['why']})"
    shares = [f"{key.replace('_', ' ')} {100 * share:.1f} %" for key, share in (row["damage"] or {}).items()]
    ms = figure(row["at_room"]["tpot_ms"])
    return f"lossy, not ranked: {row['policy']} {ms} ms per token; first-order damage: {', '.join(shares) or 'unknown'}"


def _machines(answers: Sequence[Mapping[str, Any]], console: Console) -> None:
    for it in answers:
        console.print(Text(first(it) + ".", style="bold"))
    console.print(Text(basis(answers[0]), style="yellow" if answers[0]["lengths"] is not None else ""))
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    metric = NAMES[answers[0]["metric"]]
    for head in ("", "room", "least memory", f"ms {metric}", "range", "policy"):
        table.add_column(head, justify="left" if head in ("", "policy") else "right")
    for it in answers:
        best, least = it["best"], it["least"]
        cells = [machine(it), format_bytes(it["capacity_bytes"])]
        if best is not None:
            cells += [format_bytes(least["budget_bytes"]) if least else "-", figure(best["ms"])]
            cells += [_range(best), best["policy"]]
        table.add_row(*(Text(cell) for cell in cells))
    console.print()
    console.print(table)
    console.print(Text("name one hardware= for its page: every policy, what would help, and the commands", style="dim"))
