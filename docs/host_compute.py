"""README's table of all lossless policies, with and without host compute: ``python docs/host_compute.py``.

Writes ``host_compute.csv`` beside it, and README's table and its two sentences, which are made from the numbers. Cells
that ``outputs/host_compute`` has are read, the others are run: a quarter of an hour on one core.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import yaml

from policies import registry
from sim import load
from sim.experiment.run import run
from traces.kit import conf
from traces.kit.errors import UserError
from traces.kit.whole import write_whole
from traces.version import __version__

HERE = Path(__file__).resolve().parent
NUMBERS, README = HERE / "host_compute.csv", HERE.parent / "README.md"
MACHINES = {"rtx_4090": "RTX 4090", "h200": "H200"}
BUDGETS = ("25%", "50%", "75%")
COLUMNS = ("preset", "hardware", "budget", "ms_per_token", "gap", "host_share", "decision_digest", "version")
BEGIN, END = "<!-- docs/host_compute.py writes from here -->\n", "<!-- to here -->"


def presets() -> Iterator[str]:
    """Those of conf/policy whose output is the model's own."""
    for name in sorted(conf.names("policy")):
        text = (conf.FOLDER / "policy" / f"{name}.yaml").read_text(encoding="utf-8")
        if registry.find(yaml.safe_load(text)["name"], name).output() == "lossless":
            yield name


def measure(out: Path) -> pd.DataFrame:
    """Run or read all cells: COLUMNS, a row for each. What a budget is too small for is a row without numbers."""
    cells: dict[str, tuple[str, str, str]] = {}
    lacking = []
    for hardware in MACHINES:
        for preset in presets():
            for budget in BUDGETS:
                at = (preset, hardware, budget)
                try:
                    done = run(f"policy={preset}", f"hardware={hardware}", f"budget={budget}", out=out)
                except UserError as error:
                    print(error, file=sys.stderr)
                    lacking.append(dict(zip(COLUMNS, at, strict=False)))
                else:
                    cells[done.document["provenance"]["cell"]] = at
    runs = load(out)
    runs = runs[runs["cell"].isin(list(cells))]  # not those of earlier code
    where = pd.DataFrame([cells[cell] for cell in runs["cell"]], columns=COLUMNS[:3], index=runs.index)
    found = where.assign(
        ms_per_token=1000 / runs["throughput_tokens_per_s"],
        gap=runs["bound_time_gap"],
        host_share=runs["host_lookups"] / runs["lookups"],
        decision_digest=runs["decision_digest"],
    )
    both = pd.concat([found, pd.DataFrame(lacking)], ignore_index=True).assign(version=__version__)
    return both.sort_values(list(COLUMNS[:3]), ignore_index=True)[list(COLUMNS)]


def read(path: Path = NUMBERS) -> pd.DataFrame:
    """What :func:`measure` found."""
    return pd.read_csv(path)


def on_host(numbers: pd.DataFrame) -> set[str]:
    """The presets that have the host compute anything."""
    return set(numbers.loc[numbers["host_share"] > 0, "preset"])


def verdict(numbers: pd.DataFrame) -> str:
    """What wins where: a sentence for each machine."""
    host = numbers["preset"].isin(on_host(numbers))
    said = []
    for hardware, title in MACHINES.items():
        here = numbers["hardware"] == hardware
        computes, copies = (_best(numbers[here & side]) for side in (host, ~host))
        faster = [copies[budget][1] / computes[budget][1] for budget in BUDGETS]
        said.append(
            f"On the {title}, {_named(computes)} win with the host, {min(faster):.1f} to {max(faster):.1f} times as"
            f" fast as the best that copy alone, {_named(copies)}."
        )
    return "\n".join(said)


def _best(rows: pd.DataFrame) -> dict[str, tuple[str, float]]:
    """By budget the preset of the least time, and that time."""
    best = rows.loc[rows.groupby("budget")["ms_per_token"].idxmin()].set_index("budget")
    return {budget: (best["preset"][budget], best["ms_per_token"][budget]) for budget in BUDGETS}


def _named(best: dict[str, tuple[str, float]]) -> str:
    """Who is best at which budgets."""
    where: dict[str, list[str]] = {}
    for budget, (preset, _) in best.items():
        where.setdefault(preset, []).append(budget.removesuffix("%"))
    return " and ".join(f"`{preset}` ({', '.join(at)} %)" for preset, at in where.items())


def table(numbers: pd.DataFrame) -> str:
    """All rows as Markdown, those with host compute first, each by its time at half of the experts on one machine."""
    first = next(iter(MACHINES))
    order = numbers[(numbers["hardware"] == first) & (numbers["budget"] == BUDGETS[1])].set_index("preset")[
        "ms_per_token"
    ]
    cell = {(r.preset, r.hardware, r.budget): (r.ms_per_token, r.gap) for r in numbers.itertuples()}
    titles = [f"{title}, {budget}" for title in MACHINES.values() for budget in BUDGETS]
    lines = [f"| policy | host | {' | '.join(titles)} |", "|---" * (len(titles) + 2) + "|"]
    host = on_host(numbers)
    for preset in sorted(order.index, key=lambda name: (name not in host, order[name], name)):
        row = []
        for hardware in MACHINES:
            for budget in BUDGETS:
                ms, gap = cell[preset, hardware, budget]
                row.append("-" if pd.isna(ms) else f"{ms:.3g} ({gap:.2f})")
        lines.append(f"| `{preset}` | {'yes' if preset in host else ''} | {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def shown(numbers: pd.DataFrame) -> str:
    """What README has between its two marks."""
    return f"{verdict(numbers)}\n\n<details><summary>All of them</summary>\n\n{table(numbers)}\n</details>\n"


def main() -> int:
    """Run the command; returns the exit status."""
    numbers = measure(HERE.parent / "outputs" / "host_compute")
    write_whole(NUMBERS, numbers.to_csv(index=False, float_format="%.6g"))
    page = README.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    write_whole(README, f"{before}{BEGIN}{shown(read())}{END}{after}")
    print(verdict(read()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
