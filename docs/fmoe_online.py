"""The tables of docs/fmoe_online.md: fMoE's online experiment in the three ways in which it can be read.

``python docs/fmoe_online.py LOG`` writes ``fmoe_online.csv`` and what stands between the marks of ``fmoe_online.md``;
LOG is Azure's conversations of 2023, AzureLLMInferenceTrace_conv.csv, which does not come with this project. The trace
and the cells that ``outputs/fmoe_online`` has are read, the others are made: some ten minutes on one core.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import fmoe_online_page as page
import pandas as pd

from sim.experiment.cell import Inputs
from sim.experiment.compose import read_config
from sim.experiment.run import run_config
from traces.kit.errors import UserError
from traces.kit.whole import write_whole
from traces.version import __version__

HERE = Path(__file__).resolve().parent
shown = page.shown
NUMBERS, PAGE, OUT = HERE / "fmoe_online.csv", HERE / "fmoe_online.md", HERE.parent / "outputs" / "fmoe_online"
BEGIN, END = "<!-- docs/fmoe_online.py writes from here -->\n", "<!-- to here -->"
RATE = 2.91
"""Requests per second, as the paper has it."""
LOAD = Fraction(7, 10)
"""Of the slowest system, where one request is served at a time: it is still stable."""
SYSTEMS = {
    "fmoe": ("policy.store=online",),
    "moe_infinity_as_in_finemoe": ("policy.filled=false",),
    "promoe_as_in_finemoe": (),
    "mixtral_offloading_as_in_finemoe": (),
    "deepspeed": (),
}
"""With nothing learned before the first request, as the paper has its stores."""
BESIDE = {"gate_ahead": ("policy.distance=3",)}
"""fMoE's mechanism with predictions as good as a gate's, three layers ahead."""


@dataclass(frozen=True)
class Trace:
    """What is served, on which machine; of a single server, so many requests of it."""

    words: tuple[str, ...]
    arrivals: tuple[str, ...]
    alone: tuple[str, ...]
    requests: int | None = None
    """To draw, with the lengths and arrivals of the log's first; None: it ships."""


SIX = ("hardware=rtx_3090_x6", "placement=round_robin")
TRACES = {
    "mixtral_8x7b": Trace(
        (*SIX, "model=mixtral_8x7b", "budget=24GB"), ("workload.arrivals=recorded",), ("limit=16",), 64
    ),
    "sample": Trace((*SIX, "budget=6GB", "limit=16"), ("workload.arrivals=azure", "workload.path={log}"), ()),
}
READINGS = ("service", "fifo", "batching")
SERVER = ("workload=online", "workload.max_num_seqs=1", "workload.max_num_batched_tokens=8192")
"""One at a time, and a prompt in a pass of its own, as in a closed loop."""
BATCHING = ("workload=online", "workload.max_num_seqs=32", f"workload.rate={RATE}")
COLUMNS = (
    "trace",
    "reading",
    "system",
    "requests",
    "rate",
    "request_s",
    "p50_s",
    "p99_s",
    "queueing_s",
    "ttft_s",
    "tpot_ms",
    "busy",
    "rows_per_pass",
    "gb_per_token",
    "complete",
    "link_busy",
    "decision_digest",
    "version",
)


@dataclass(frozen=True)
class Question:
    """A cell."""

    trace: str
    reading: str
    system: str
    rate: float | None = None
    """Of a single server's arrivals."""

    def words(self, folder: str, log: str) -> tuple[str, ...]:
        """Of its configuration; ``folder``: of the trace."""
        it = TRACES[self.trace]
        arrivals = tuple(word.format(log=log) for word in it.arrivals)
        workload = {
            "service": it.alone,
            "fifo": (*it.alone, *SERVER, *arrivals, f"workload.rate={self.rate}"),
            "batching": (*BATCHING, *arrivals),
        }[self.reading]
        own = {**SYSTEMS, **BESIDE}[self.system]
        return (f"policy={self.system}", *own, *it.words, f"trace={folder}", "bounds=false", *workload)


def rows(log: str, out: Path = OUT) -> Iterator[dict[str, Any]]:
    """Run or read all cells: what each says. The rate of a single server is that of the slowest at LOAD."""
    inputs = Inputs(keep=True)
    for trace in TRACES:
        folder, slowest = trace_of(trace, log, out), 0.0
        for reading in READINGS:
            rate = float(f"{float(LOAD) / slowest:.2g}") if reading == "fifo" else None
            for system in (*SYSTEMS, *BESIDE):
                question = Question(trace, reading, system, rate)
                words = question.words(folder, log)
                print(*words, file=sys.stderr)
                found = row(question, run_config(read_config(words), out / "cells", inputs=inputs).document)
                slowest = max(slowest, found["request_s"]) if reading == "service" else slowest
                yield found


def trace_of(name: str, log: str, out: Path = OUT) -> str:
    """Its folder, drawn where it is not there yet."""
    requests, folder = TRACES[name].requests, out / name
    if requests is None:
        return name
    if not folder.is_dir():
        from traces.synthesize.plan import plan_of  # and SciPy, which who reads the numbers need not load
        from traces.synthesize.synthesize import synthesize
        from traces.synthesize.words import Synthesize

        out.mkdir(parents=True, exist_ok=True)
        words = Synthesize(model=name, out=folder, requests=requests, lengths=Path(log), prefill=True, split=Fraction())
        synthesize(plan_of(words), folder)
    return str(folder)


def row(question: Question, done: Any) -> dict[str, Any]:
    """What a result says, in COLUMNS."""
    latency, totals, own = done["latency_ms"], done["totals"], done.get("serving")
    tokens = totals["generated_tokens"] + totals["prefill_tokens"]
    return {
        "trace": question.trace,
        "reading": question.reading,
        "system": question.system,
        "requests": totals["requests"],
        "rate": RATE if question.reading == "batching" else question.rate,
        "request_s": latency["request"]["mean"] / 1000,
        "p50_s": latency["request"]["p50"] / 1000,
        "p99_s": latency["request"]["p99"] / 1000,
        "queueing_s": own["latency_ms"]["queueing"]["mean"] / 1000 if own else 0.0,
        "ttft_s": latency["ttft"]["mean"] / 1000,
        "tpot_ms": latency["tpot"]["mean"],
        "busy": 1 - totals["idle_ns"] / totals["wall_ns"] if own else 1.0,
        "rows_per_pass": tokens / sum(it["count"] for it in own["passes"].values()) if own else None,
        "gb_per_token": sum(done["bytes_per_token"].values()) / 1e9,
        "complete": done["hit_rate"]["complete"],
        "link_busy": done["link_utilisation"],
        "decision_digest": done["provenance"]["decision_digest"],
        "version": __version__,
    }


def read(path: Path = NUMBERS) -> pd.DataFrame:
    """What :func:`rows` found."""
    return pd.read_csv(path)


def main() -> int:
    """Run the command; returns the exit status."""
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_file():
        raise UserError("which log? allowed: python docs/fmoe_online.py AzureLLMInferenceTrace_conv.csv")
    numbers = pd.DataFrame(rows(sys.argv[1]), columns=COLUMNS)
    write_whole(NUMBERS, numbers.to_csv(index=False, float_format="%.5g"))
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    write_whole(PAGE, f"{before}{BEGIN}{shown(read())}{END}{rest.partition(END)[2]}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(str(error))
