"""`python -m real measure`: one verb for anybody's GPU; what came of it is judged by `python -m real evaluate`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from real.words import prepare
from traces.kit.errors import UserError
from traces.kit.vocabulary import HostMemory, Threads
from traces.kit.words import Between, folder


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measures a machine with a GPU, in one go and in the time given: whether it
    is fit for this (versions, memory, the CUDA paths on a tiny model), copies by
    size, one layer of the model by tokens, what this runtime adds, then policies by
    budgets on a recorded trace's routing at OLMoE-1B-7B's size with random weights,
    the runtime beside the library and accelerate, whether outputs are equal to the
    bit, experts of Mixtral's size (where the link decides), experts that the host
    computes, second runs, a profile of three passes, the policies' own time, and
    runtime, library and accelerate once more, each in a process of its own.
    Nothing is simulated: python -m real evaluate DIR does that, on any machine,
    afterwards.

    Each step's result is written when it ends, whole or not at all. A step that
    fails is named, and the next begins. The same command again goes on with what is
    missing. Needs torch, transformers, NumPy and PyYAML alone, and accelerate for
    its own row.

    {keys}

    Exit status: 0 where all steps are done, 1 where one failed or is outstanding, 2
    for a mistake.

      python -m real measure out=measured
      python -m real measure out=tried rehearse=true device=cpu threads=1 minutes=3
    """

    out: Annotated[Path, folder, "the folder of the results"]
    minutes: Annotated[float, Between(0.1, 24 * 60), "about so long, the last step's end included"] = 9.0
    only: Annotated[str, "steps, separated by commas; of what they need, nothing is added; empty: all"] = ""
    device: Annotated[str, "cuda | cuda:N"] = "cuda"
    host_memory: HostMemory = None
    threads: Threads = 0
    rehearse: Annotated[bool, "everything at a tiny size, on the CPU too"] = False

    def __post_init__(self) -> None:
        if not self.rehearse and not self.device.startswith("cuda"):
            raise UserError(f"device={self.device}: measures a GPU; allowed: cuda, cuda:N, or rehearse=true beside it")


def main(options: Options) -> int:
    """Run the command; returns the exit status. UserError for what the user can mend."""
    from real.measure.clock import Clock

    clock = Clock(60 * options.minutes)  # imports take seconds of it
    prepare(options.threads)
    from real.measure.bench import Bench
    from real.measure.steps import STEPS, chosen, run
    from traces.models.devices import device_of

    plan = chosen(options.only)
    bench = Bench(options.out, device_of(options.device), clock, options.rehearse, options.host_memory)
    bench.open([step.name for step in STEPS])
    states = run(plan, bench, clock)
    sys.stdout.write(bench.record.table())
    return 0 if all(state == "done" for state in states.values()) else 1
