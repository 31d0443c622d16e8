"""The tables of docs/fmoe_testbed.md: fMoE's comparison on its testbed, beside what it printed.

``python docs/fmoe_testbed.py`` writes ``fmoe_testbed.csv`` and what stands between the marks of ``fmoe_testbed.md``.
Traces and cells that ``outputs/fmoe_testbed`` has are read, the others are made: some ten minutes on one core.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fmoe_testbed_page as page
import pandas as pd

from sim.experiment.cell import Inputs
from sim.experiment.compose import read_config
from sim.experiment.run import run_config
from sim.prices.placement import PLACEMENTS
from traces.kit.whole import write_whole
from traces.version import __version__

HERE = Path(__file__).resolve().parent
shown = page.shown
NUMBERS, PAGE, OUT = HERE / "fmoe_testbed.csv", HERE / "fmoe_testbed.md", HERE.parent / "outputs" / "fmoe_testbed"
BEGIN, END = "<!-- docs/fmoe_testbed.py writes from here -->\n", "<!-- to here -->"
MODELS = ("mixtral_8x7b", "qwen1_5_moe_a2_7b", "phi_3_5_moe")
RECORDED = "sample"
"""The one recording that has all signals which the five read: tiny-moe, priced as OLMoE-1B-7B."""
CACHES = ("6GB", "12GB", "24GB", "48GB", "96GB")
SYSTEMS = (
    "fmoe",
    "moe_infinity_as_in_finemoe",
    "promoe_as_in_finemoe",
    "mixtral_offloading_as_in_finemoe",
    "deepspeed",
)
BESIDE = {"fmoe_artifact": (), "gate_ahead": ("policy.distance=3",)}
"""fMoE as its code of 2025 has it; and its mechanism with predictions as good as a gate's, three layers ahead."""
SIX = ("hardware=rtx_3090_x6", "placement=round_robin")
TWO = ("hardware=rtx_3090_x2",)
NARROW = "hardware.root_gb_per_s=26"
MACHINES = {
    "six": SIX,
    "six, one root": (*SIX, NARROW),
    "a100": ("hardware=a100",),
    "one": (*TWO, "hardware.gpus=1"),
    **{f"two, {name}": (*TWO, f"placement={name}") for name in PLACEMENTS},
    **{f"two, {name}, one root": (*TWO, f"placement={name}", NARROW) for name in PLACEMENTS},
}
"""A root has all links behind one that has a single link's rate."""
COLUMNS = (
    "machine",
    "model",
    "cache",
    "system",
    "ttft_ms",
    "tpot_ms",
    "complete",
    "resident",
    "recall",
    "gb_per_token",
)
MORE = ("link_busy", "decision_digest", "version")


FEW = ("limit=4", "warmup=1", "bounds=false")
"""Four requests after one that warms the caches: some 500 decode steps, in 24 or 32 layers each."""


@dataclass(frozen=True)
class Question:
    """A cell: of which table it is, and its words."""

    machine: str
    model: str
    cache: str
    system: str

    @property
    def words(self) -> tuple[str, ...]:
        """But for model and trace."""
        own = BESIDE.get(self.system, ())
        few = FEW if (self.model, self.machine) != (RECORDED, "six") else ("limit=3", *FEW[1:])
        return (f"policy={self.system}", *own, *MACHINES[self.machine], f"budget={self.cache}", *few)


def questions() -> Iterator[Question]:
    """All cells. What the larger caches are worth is seen on the largest model."""
    for model in MODELS:
        for cache in CACHES if model == MODELS[0] else CACHES[:3]:
            for system in SYSTEMS:
                yield Question("six", model, cache, system)
        for system in BESIDE if model == MODELS[0] else ("gate_ahead",):
            yield Question("six", model, CACHES[0], system)
    for system in (*SYSTEMS, "gate_ahead"):
        yield Question("six", RECORDED, CACHES[0], system)
    for system in SYSTEMS:
        yield Question("a100", MODELS[0], "50%", system)
    for system in ("fmoe", "deepspeed"):
        yield Question("six, one root", MODELS[0], CACHES[0], system)
    for machine in MACHINES:
        if machine.startswith(("one", "two")):
            yield Question(machine, RECORDED, "2GB" if machine == "one" else "4GB", "lru")


def trace_of(model: str, out: Path = OUT) -> str:
    """Its trace, drawn where it is not there yet: prompts and outputs between the means of fMoE's two data sets."""
    if model == RECORDED:
        return RECORDED
    folder = out / model
    if not folder.is_dir():
        from traces.synthesize.plan import plan_of  # and SciPy, which who reads the numbers need not load
        from traces.synthesize.synthesize import synthesize
        from traces.synthesize.words import Synthesize

        out.mkdir(parents=True, exist_ok=True)
        drawn = plan_of(Synthesize(model=model, out=folder, requests=40, prompt=(37, 43), output=(122, 127)))
        synthesize(drawn, folder)
    return str(folder)


def measure(out: Path = OUT) -> pd.DataFrame:
    """Run or read all cells: a row for each."""
    inputs, rows = Inputs(keep=True), []
    for question in questions():
        model = question.model if question.model != RECORDED else "as_traced"
        words = (*question.words, f"model={model}", f"trace={trace_of(question.model, out)}")
        print(*words, file=sys.stderr)
        rows.append(row(question, run_config(read_config(words), out / "cells", inputs=inputs).document))
    return pd.DataFrame(rows, columns=[*COLUMNS, *MORE])


def row(question: Question, done: Any) -> dict[str, Any]:
    """What a result says, in COLUMNS and MORE."""
    hits = done["hit_rate"]
    return {
        "machine": question.machine,
        "model": question.model,
        "cache": question.cache,
        "system": question.system,
        "ttft_ms": done["latency_ms"]["ttft"]["mean"],
        "tpot_ms": done["latency_ms"]["tpot"]["mean"],
        **{rate: hits[rate] for rate in ("complete", "resident", "recall")},
        "gb_per_token": sum(done["bytes_per_token"].values()) / 1e9,
        "link_busy": done["link_utilisation"],
        "decision_digest": done["provenance"]["decision_digest"],
        "version": __version__,
    }


def read(path: Path = NUMBERS) -> pd.DataFrame:
    """What :func:`measure` found."""
    return pd.read_csv(path)


def main() -> int:
    """Run the command; returns the exit status."""
    write_whole(NUMBERS, measure().to_csv(index=False, float_format="%.5g"))
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    write_whole(PAGE, f"{before}{BEGIN}{shown(read())}{END}{rest.partition(END)[2]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
