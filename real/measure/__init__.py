"""`python -m real measure`: one verb for anybody's GPU; what came of it is judged by `python -m real evaluate`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from real.run import prepare
from real.words import host_bytes
from traces.kit.errors import UserError
from traces.kit.options import check_choice, check_range, parse_options

USAGE = """\
python -m real measure out=DIR [minutes=9] [key=value ...]

Measures a machine with a GPU, in one process and in the time given: whether it
is fit for this (versions, memory, the CUDA paths on a tiny model), copies by
size, one layer of the model by tokens, what this runtime adds, then policies by
budgets on a recorded trace's routing at OLMoE-1B-7B's size with random weights,
the runtime beside the library and accelerate, whether outputs are equal to the
bit, experts of Mixtral's size (where the link decides), second runs, a profile
of three passes, and the policies' own time. Nothing is simulated: python -m
real evaluate DIR does that, on any machine, afterwards.

Each step's result is written when it ends, whole or not at all. A step that
fails is named, and the next begins. The same command again goes on with what is
missing. Needs torch, transformers, NumPy and PyYAML alone, and accelerate for
its own row.

  out          the folder of the results
  minutes      about so long, the last step's end included  [9]
  only         steps, separated by commas; of what they need, nothing is added
               [all]
  device       cuda | cuda:N  [cuda]
  host_memory  of the machine, where it does not say it (110GB)  [as found]
  threads      CPU threads; 0: torch's choice  [0]
  rehearse     true: everything at a tiny size, on the CPU too  [false]

Exit status: 0 where all steps are done, 1 where one failed or is outstanding, 2
for a mistake.

  python -m real measure out=measured
  python -m real measure out=tried rehearse=true device=cpu threads=1 minutes=3
"""


@dataclass(frozen=True)
class Options:
    """See USAGE."""

    out: str
    minutes: float = 9.0
    only: str = ""
    device: str = "cuda"
    host_memory: str = ""
    threads: int = 0
    rehearse: str = "false"

    def check(self) -> None:
        """UserError for a value that is not known."""
        check_choice("rehearse", self.rehearse, ("true", "false"))
        check_range("minutes", self.minutes, 0.1, 24 * 60)
        check_range("threads", self.threads, 0, 4096)
        host_bytes(self.host_memory)
        if not self.out:
            raise UserError("out=: allowed: a folder, which is made where it is not there")
        if Path(self.out).exists() and not Path(self.out).is_dir():
            raise UserError(f"out={self.out}: not a folder")
        if self.rehearse == "false" and not self.device.startswith("cuda"):
            raise UserError(f"device={self.device}: measures a GPU; allowed: cuda, cuda:N, or rehearse=true beside it")


def main(words: Sequence[str]) -> int:
    """Run the command; returns the exit status. UserError for what the user can mend."""
    options = parse_options(Options, list(words))
    options.check()
    from real.measure.clock import Clock

    clock = Clock(60 * options.minutes)  # imports take seconds of it
    prepare(options.threads)
    from real.measure.bench import Bench
    from real.measure.steps import STEPS, chosen, run
    from traces.models.devices import device_of

    plan = chosen(options.only)
    rehearse, host = options.rehearse == "true", host_bytes(options.host_memory)
    bench = Bench(Path(options.out), device_of(options.device), clock, rehearse, host)
    bench.open([step.name for step in STEPS])
    states = run(plan, bench, clock)
    sys.stdout.write(bench.record.table())
    return 0 if all(state == "done" for state in states.values()) else 1
