"""How far next_use comes on several traces: ``python docs/next_use.py NAME=FOLDER ...``, of traces of your own.

Writes ``next_use.csv`` beside it, the table in its folder's README, the shares in ``policies/README.md`` and the
verdict in README; without words the pages alone, from the numbers. For each trace (a folder, or ``sample``) and
budget: next_use, the fastest published lossless row, and the time bound. Cells that ``outputs/next_use`` has are
read. ``NAME=FOLDER:N`` measures the first N test requests. The rows that are tried are RIVALS and those that a pass
over some train requests finds the fastest of PUBLISHED, by budget; ``NAME=FOLDER+ROW,ROW`` names them instead.
``NAME=FOLDER@HARDWARE``: another machine than the RTX 4090.
"""

import sys
import textwrap
from pathlib import Path

import pandas as pd

from policies.registry import find
from sim.experiment.bounds import floors
from sim.experiment.cell import make_cell
from sim.experiment.compose import read_config
from sim.experiment.run import run
from sim.results.compare.stats import Interval, blocks, holm, relative_difference, sign_flip
from traces import find_trace, open_trace
from traces.kit.errors import UserError
from traces.kit.whole import write_whole

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
NUMBERS, PAGE = HERE / "next_use.csv", ROOT / "policies" / "next_use" / "README.md"
BEGIN, END = "<!-- docs/next_use.py writes from here -->\n", "<!-- to here: next_use -->"
BUDGETS = ("15%", "25%", "50%", "75%")
PUBLISHED = (
    *("lru", "lru_layer", "lfu", "lfru", "static", "gate_ahead", "hobbit_lossless", "promoe"),
    *("fmoe", "moe_infinity", "mixtral_offloading"),
)
SWITCHES = {"promoe": ["policy.predictor=gate_ahead"]}
RIVALS = ("lru", "lru_layer", "lfru")
SCREENED = 2
"""Train requests of the pass that finds the fastest."""
FASTEST = 2
"""So many of these are tried on the test requests."""


def words_of(policy: str, trace: str) -> list[str]:
    """A row with what the trace recorded: what a policy does without a signal it says itself."""
    found, words = open_trace(find_trace(trace)), SWITCHES.get(policy, [])
    without = find(read_config([f"policy={policy}"]).policy["name"]).without
    lacks = [word for signal, word in without.items() if not found.has(signal) and word.startswith("policy.")]
    return [f"policy={policy}", *words, *lacks]


def times(words: list[str], out: Path) -> tuple[float, pd.DataFrame] | None:
    """ms per token of a run, and of each request ``whole`` and ``tpot`` in ms; None where it cannot run."""
    try:
        done = run(*words, "bounds=false", out=out)
    except UserError as error:
        print(error, file=sys.stderr)
        return None
    rows = pd.read_parquet(done.folder / "requests.parquet")
    whole = (rows["end_ns"] - rows["admitted_ns"]) / 1e6
    per_token = 1000 / done.document["throughput_tokens_per_s"]
    return per_token, pd.DataFrame({"whole": whole, "tpot": rows["tpot_ns"] / 1e6})


def screened(at: list[str], trace: str, budget: str, out: Path) -> list[str]:
    """The fastest of PUBLISHED on some train requests, from which they do not learn."""
    few = [*at, "measure=validation", f"limit={SCREENED}", f"budget={budget}"]
    tried = {policy: times([*few, *words_of(policy, trace)], out) for policy in PUBLISHED}
    known = {policy: found[0] for policy, found in tried.items() if found is not None}
    print(budget, {policy: f"{ms:.4g}" for policy, ms in known.items()}, flush=True)
    return sorted(known, key=lambda policy: known[policy])[:FASTEST]


def judged(
    name: str, trace: str, at: list[str], limit: list[str], rivals: list[str], out: Path
) -> list[dict[str, object]]:
    """A row for each budget."""
    whole = [*at, *limit]
    cell = make_cell(read_config([*whole, "policy=lru", "budget=10%"]))
    budgets = [int(cell.total_expert_bytes * float(share[:-1]) / 100) for share in BUDGETS]
    bounds = [floor.ns / 1e6 for floor in floors(cell, budgets)]
    title, rows = name if len(at) == 1 else f"{name}, {at[1]}", list[dict[str, object]]()
    for budget, bound in zip(BUDGETS, bounds, strict=True):
        own = times([*whole, f"budget={budget}", *words_of("next_use", trace)], out)
        assert own is not None
        others = rivals or [*RIVALS, *screened(at, trace, budget, out)]
        tried = {
            policy: times([*whole, f"budget={budget}", *words_of(policy, trace)], out)
            for policy in dict.fromkeys(others)
        }
        known = {policy: found for policy, found in tried.items() if found is not None}
        best = min(known, key=lambda policy: known[policy][0])
        tokens = own[1]["whole"].sum() / own[0]
        row = {
            "trace": title,
            "budget": budget,
            "requests": len(own[1]),
            "bound": bound / tokens,
            "best": best,
        }
        row |= {"best_ms": known[best][0], "own_ms": own[0]} | against(own, known[best], bound)
        for policy, (_, found) in known.items():
            row[f"tpot_{policy}"] = relative_difference(own[1]["tpot"], found["tpot"]).value
            row[f"p_{policy}"] = sign_flip(own[1]["tpot"] - found["tpot"])
        rows.append(row)
        print({key: f"{it:.4g}" if isinstance(it, float) else it for key, it in row.items()}, flush=True)
    for row, p in zip(rows, holm([float(str(row["p"])) for row in rows]), strict=True):
        row["p_holm"] = p
    return rows


def against(own: tuple[float, pd.DataFrame], best: tuple[float, pd.DataFrame], bound: float) -> dict[str, object]:
    """Own to best, by request, in blocks (sim.results.compare): TPOT, and what is closed of the gap to the bound.

    The bound, in ms, is of all requests together; the interval is that of their time, drawn to the scale of the gap.
    """
    tpot = relative_difference(own[1]["tpot"], best[1]["tpot"])
    time = relative_difference(own[1]["whole"], best[1]["whole"])
    total = float(blocks(best[1]["whole"]).sum())
    found: dict[str, object] = {"tpot": tpot.value, "tpot_low": tpot.low, "tpot_high": tpot.high}
    ends = Interval(time.value, time.high, time.low)
    for key, end in (("closed", ends.value), ("closed_low", ends.low), ("closed_high", ends.high)):
        found[key] = None if end is None else -end * total / (total - bound)
    return found | {"p": sign_flip(own[1]["tpot"] - best[1]["tpot"])}


def table(numbers: pd.DataFrame) -> str:
    """As Markdown."""
    lines = [
        "| trace | budget | requests | bound | best published | `next_use` | TPOT | p (Holm) | of the gap closed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in numbers.itertuples():
        tpot = f"{100 * r.tpot:+.1f} % ({100 * r.tpot_low:+.1f} to {100 * r.tpot_high:+.1f})"
        closed = f"{100 * r.closed:.0f} % ({100 * r.closed_low:.0f} to {100 * r.closed_high:.0f})"
        of = f"{r.best_ms:.3g} (`{r.best}`)"
        lines.append(
            f"| {r.trace} | {r.budget} | {r.requests} | {r.bound:.3g} | {of} | {r.own_ms:.3g} | {tpot} | {r.p_holm:.2g}"
            f" | {closed} |"
        )
    return "\n".join(lines) + "\n"


def shares(numbers: pd.DataFrame) -> str:
    """Of the gap what is closed, a row a trace, as Markdown."""
    lines = [f"| trace | {' | '.join(BUDGETS)} |", f"|---|{'---|' * len(BUDGETS)}"]
    for trace, rows in numbers.groupby("trace", sort=False):
        of = {
            r.budget: f"{100 * r.closed:.0f} % ({100 * r.closed_low:.0f} to {100 * r.closed_high:.0f})"
            for r in rows.itertuples()
        }
        lines.append(f"| {trace} | {' | '.join(of[budget] for budget in BUDGETS)} |")
    return "\n".join(lines) + "\n"


def verdict(numbers: pd.DataFrame) -> str:
    """In one sentence."""
    tpot, closed = 100 * numbers["tpot"], 100 * numbers["closed"]
    faster, traces = numbers["tpot_high"] < 0, numbers["trace"].nunique()
    return (
        textwrap.fill(
            "`next_use`, this workbench's own, learns from train requests and from what it serves. Beside the fastest"
            f" published row of {traces} traces, one recorded here, one elsewhere and the others drawn, at 15 to 75 %"
            f" of the experts ({len(numbers)} cells) an output token takes {-tpot.max():.1f} to {-tpot.min():.1f} %"
            f" less time, in {faster.sum()} of them with an interval below 0; of the gap between that row and the bound"
            f" it closes {closed.mean():.0f} % on average ({closed.min():.0f} to {closed.max():.0f}):"
            " [by trace and budget](policies/README.md#how-far-our-own-comes).",
            118,
            break_on_hyphens=False,
        )
        + "\n"
    )


def main(words: list[str]) -> int:
    """Run the command; returns the exit status."""
    rows = []
    for word in words:
        name, _, trace = word.partition("=")
        trace, _, rivals = trace.partition("+")
        trace, _, limit = trace.partition(":")
        trace, _, hardware = trace.partition("@")
        at = [f"trace={trace}", *([f"hardware={hardware}"] if hardware else [])]
        others = [policy for policy in rivals.split(",") if policy]
        rows += judged(name, trace, at, [f"limit={limit}"] if limit else [], others, ROOT / "outputs" / "next_use")
        write_whole(NUMBERS, pd.DataFrame(rows).to_csv(index=False, float_format="%.5g"))
    write_pages(pd.read_csv(NUMBERS))
    return 0


def pages(numbers: pd.DataFrame) -> dict[Path, str]:
    """What each page has between its marks."""
    return {PAGE: table(numbers), PAGE.parents[1] / "README.md": shares(numbers), ROOT / "README.md": verdict(numbers)}


def write_pages(numbers: pd.DataFrame) -> None:
    """Write these parts anew."""
    for page, part in pages(numbers).items():
        before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        write_whole(page, f"{before}{BEGIN}{part}{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
