"""The tables of docs/plan.md: answers for four machines, and figures of others beside ours. ``python docs/plan.py``.

Writes ``plan.csv`` and the tables between the marks of ``plan.md``. Cells that ``outputs/plan`` has are read, the
others are run: some five minutes on two cores.
"""

import csv
import io
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sim.plan.cells import Figures, Runner
from sim.plan.question import Question, ask, settings
from sim.plan.routing import draw, kinds, modelled
from sim.plan.sentences import first
from sim.plan.words import Options, plan
from traces.kit.units import figure
from traces.kit.whole import write_whole

HERE = Path(__file__).resolve().parent
NUMBERS, PAGE, OUT = HERE / "plan.csv", HERE / "plan.md", HERE.parent / "outputs" / "plan"
BEGIN, END = "<!-- docs/plan.py writes {} from here -->\n", "<!-- to here -->"
COLUMNS = ("who", "what", "published", "unit", "ours", "low", "high", "ratio")


@dataclass(frozen=True)
class Case:
    """A figure that others published, and the run of ours that stands for it."""

    who: str
    what: str
    published: float
    unit: str
    model: str
    hardware: str
    policy: str
    budget: str
    """A share of all experts, or the room."""
    words: Sequence[str] = ()
    settings: tuple[tuple[str, Any], ...] = ()
    against: str = ""
    """A ratio is to this policy's."""


SIGNALS = ("gate_ahead",)
"""As a plan draws them."""
QWEN = "Qwen3-30B-A3B in fp8, RTX 4090, 45 % resident"
CASES = (
    Case(
        "llama.cpp, -ncmoe 28 (moe-speed-of-light)",
        "gpt-oss-120b, RTX 4090",
        21.96,
        "tokens/s",
        "gpt_oss_120b",
        "rtx_4090",
        "static_split",
        "room",
        settings=(("host_layers", 28),),
    ),
    Case(
        "llama.cpp, -ncmoe 25 (moe-speed-of-light)",
        "gpt-oss-120b, RTX 5090",
        36.2,
        "tokens/s",
        "gpt_oss_120b",
        "rtx_5090",
        "static_split",
        "room",
        settings=(("host_layers", 25),),
    ),
    Case(
        "FreeToken (arXiv 2608.16157)",
        "gpt-oss-120b, 40 % resident; the machine is inferred: RTX 5090",
        127,
        "tokens/s",
        "gpt_oss_120b",
        "rtx_5090",
        "split",
        "40%",
    ),
    Case(
        "llama.cpp (SeqMoE, arXiv 2609.12978)",
        QWEN,
        30.9,
        "tokens/s",
        "qwen3_30b_a3b",
        "rtx_4090",
        "static_split",
        "45%",
        ("model.dtype=fp8",),
    ),
    Case(
        "KTransformers (SeqMoE)",
        QWEN,
        34.2,
        "tokens/s",
        "qwen3_30b_a3b",
        "rtx_4090",
        "fiddler",
        "45%",
        ("model.dtype=fp8",),
    ),
    Case(
        "FreeToken (SeqMoE: 51.5 % of 122.7)",
        QWEN,
        63.2,
        "tokens/s",
        "qwen3_30b_a3b",
        "rtx_4090",
        "split",
        "45%",
        ("model.dtype=fp8",),
    ),
    Case(
        "Speculating Experts, its baseline (arXiv 2603.19289)",
        "Qwen3-30B-A3B in bfloat16, RTX A6000, nothing cached",
        6.29,
        "tokens/s",
        "qwen3_30b_a3b",
        "rtx_a6000",
        "on_demand",
        "room",
    ),
    Case(
        "fitz-tec 0.1.1, LRU per layer over llama.cpp's split",
        "Mixtral-8x7B in int4, RTX 5090, 75 % cached",
        0.63,
        "times",
        "mixtral_8x7b",
        "rtx_5090",
        "lru_layer",
        "75%",
        ("model.dtype=int4",),
        against="static_split",
    ),
)
ASKED = {
    "OLMoE-1B-7B on RTX 4090": Options(model="olmoe_1b_7b", hardware=("rtx_4090",), out=OUT),
    "Qwen3-30B-A3B on RTX 3090, 50 ms a token": Options(
        model="qwen3_30b_a3b", hardware=("rtx_3090",), target="tpot<=50ms", out=OUT
    ),
    "Mixtral-8x7B on RTX 3090, 64 GB in the host": Options(
        model="mixtral_8x7b", hardware=("rtx_3090",), host_memory=64 * 10**9, out=OUT
    ),
    "gpt-oss-120b on RTX 4090, 64 GB in the host": Options(
        model="gpt_oss_120b", hardware=("rtx_4090",), host_memory=64 * 10**9, out=OUT
    ),
}


def question(case: Case) -> Question:
    """What is asked of our machine."""
    rest = list(case.words)
    return ask(case.hardware, case.model, None, None, context=None, batch=1, host_memory=None, rest=rest)


def ours(case: Case, runner: Runner) -> list[float]:
    """Our figure on each kind of routing, of the first seed."""
    it = question(case)
    assert it.lengths is not None
    share = int(case.budget.rstrip("%")) if case.budget.endswith("%") else None
    budget = min(it.room.bytes, it.total) if share is None else it.total * share // 100
    found = []
    for kind in kinds(it.model.name):
        trace = str(draw(OUT / "routing", modelled(it.model, it.dtype), kind, 0, it.lengths, SIGNALS))
        base = it.cell(case.policy, budget, trace)
        configs = [replace(base, policy={**settings(case.policy), **dict(case.settings)})]
        configs += [it.cell(case.against, budget, trace)] if case.against else []
        speeds = [_speed(one) for one in runner.run(configs)]
        found.append(speeds[0] / speeds[1] if case.against else speeds[0])
    return found


def _speed(found: Any) -> float:
    """Tokens/s between the first and the last token."""
    if not isinstance(found, Figures):
        raise SystemExit(str(found))
    spread = found.latency_ms["tpot"]
    assert spread is not None
    return 1000 / spread["mean"]


def rows() -> Iterator[dict[str, Any]]:
    """COLUMNS of each case."""
    with Runner(OUT) as runner:
        for case in CASES:
            each = ours(case, runner)
            own = {"ours": each[0], "low": min(each), "high": max(each), "ratio": each[0] / case.published}
            yield {"who": case.who, "what": case.what, "published": case.published, "unit": case.unit, **own}


def read(path: Path = NUMBERS) -> list[dict[str, str]]:
    """What :func:`rows` found."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def table(numbers: Sequence[dict[str, str]]) -> str:
    """The cases as Markdown."""
    lines = ["| others | what | published | ours (range) | ours / theirs |", "|---|---|---|---|---|"]
    for row in numbers:
        own, low, high = (figure(float(row[key])) for key in ("ours", "low", "high"))
        own = own if low == high else f"{own} ({low} to {high})"
        lines.append(
            f"| {row['who']} | {row['what']} | {row['published']} {row['unit']} | {own} | {float(row['ratio']):.2f} |"
        )
    return "\n".join(lines) + "\n"


def answers() -> str:
    """The first lines of the four questions, with the seconds that the first asking took here."""
    lines = ["| asked | answered |", "|---|---|"]
    for asked, options in ASKED.items():
        began = time.monotonic()
        (it,) = plan(options)
        print(f"{asked}: {time.monotonic() - began:.0f} s", file=sys.stderr)
        inner = f" {first(it['instead'])}." if it["instead"] else ""
        lines.append(f"| {asked} | {first(it)}.{inner} |".replace("<=", "&lt;="))
    return "\n".join(lines) + "\n"


def put(page: str, name: str, text: str) -> str:
    """The page with ``text`` between the marks of ``name``."""
    begin = BEGIN.format(name)
    before, _, rest = page.partition(begin)
    return f"{before}{begin}{text}{END}{rest.partition(END)[2]}"


def main() -> int:
    """Run the command; returns the exit status."""
    page = PAGE.read_text(encoding="utf-8")
    page = put(page, "answers", answers())
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows():
        writer.writerow({key: f"{it:.6g}" if isinstance(it, float) else it for key, it in row.items()})
    write_whole(NUMBERS, file.getvalue())
    write_whole(PAGE, put(page, "anchors", table(read())))
    print(table(read()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
