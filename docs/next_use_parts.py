"""What each part of next_use is worth, on train requests alone: ``python docs/next_use_parts.py``.

Learned from are every third of the sample's train requests, measured are the others; no test request is read. Prints a
Markdown row for each setting: ms per decode step at each budget, and the simulator's own seconds.
"""

import sys
from dataclasses import replace
from time import process_time

from sim.experiment.cell import Inputs, make_cell, make_policy
from sim.experiment.compose import read_config
from sim.experiment.run import simulate
from sim.workload.passes import Selection

BUDGETS = ("25%", "50%", "75%")
SETTINGS = {
    "as shipped": (),
    "`discount=0.5 far=0`": ("policy.discount=0.5", "policy.far=0"),
    "`discount=0.7 far=0.3`": ("policy.discount=0.7", "policy.far=0.3"),
    "`discount=0.85 far=0.3`": ("policy.discount=0.85", "policy.far=0.3"),
    "`shares=false`": ("policy.shares=false",),
    "`scores=false`": ("policy.scores=false",),
    "`components=0`": ("policy.components=0",),
    "`components=32`": ("policy.components=32",),
    "`components=64`": ("policy.components=64",),
    "`online=false`": ("policy.online=false",),
    "`due=false`": ("policy.due=false",),
    "`prefetch=off`": ("policy.prefetch=off",),
    "`prefetch=next`": ("policy.prefetch=next",),
    "`gates=false`": ("policy.gates=false",),
    "`priced=false`": ("policy.priced=false",),
    "`scope=layer`": ("policy.scope=layer",),
}


def tpot(words: tuple[str, ...], budget: str, inputs: Inputs) -> tuple[float, float]:
    """Milliseconds per decode step, and seconds that the simulator took."""
    cell = make_cell(read_config([f"budget={budget}", "bounds=false", *words]), inputs)
    train = [request.request for request in cell.trace.requests if request.split == "train"]
    learned = tuple(train[::3])
    cell = replace(cell, selection=Selection((), tuple(it for it in train if it not in learned), learned))
    policy, began = make_policy(cell), process_time()
    timings = simulate(cell, policy).timings.requests.values()
    took = process_time() - began
    decode_ns = sum((it.tpot_ns or 0) * it.decode_steps for it in timings)
    return decode_ns / sum(it.decode_steps for it in timings) / 1e6, took


def main(wanted: list[str]) -> int:
    """Run the command; returns the exit status. ``wanted``: parts of the settings' names; all if there are none."""
    inputs = Inputs(keep=True)
    print(f"| setting | {' | '.join(BUDGETS)} | seconds |", "|---|---|---|---|", sep="\n")
    others = {f"`{name}`": (f"policy={name}",) for name in ("lru", "lru_layer", "lfru", "hobbit_lossless")}
    own = {name: ("policy=next_use", *words) for name, words in SETTINGS.items()}
    for name, words in {**others, **own}.items():
        if not wanted or any(part in name for part in wanted):
            found = [tpot(words, budget, inputs) for budget in BUDGETS]
            print(f"| {name} | {' | '.join(f'{ms:.4g}' for ms, _ in found)} | {sum(s for _, s in found):.1f} |")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
