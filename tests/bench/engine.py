"""The engine's speed beside that of the textbook machine, the slow oracle of its tests, on the same requests.

    python -m tests.bench.engine [KEY=VALUE ...]

Takes the keys of ``sim run``; policy=lru budget=25% chunks=3 limit=10 unless given. They run in turns, medians of CPU
time and of the turns' ratios count, and they must agree on every account.
"""

import sys

from sim.experiment.bench import engine, in_turns, layer_steps
from sim.experiment.cell import Cell, make_cell, make_policy, make_signals
from sim.experiment.compose import read_config
from sim.prices.hardware import policy_time
from tests.sim.machine.textbook import Textbook

USUAL = ("policy=lru", "budget=25%", "chunks=3", "limit=10", "bounds=false")


def textbook(cell: Cell) -> Textbook:
    policy, hardware = make_policy(cell), cell.hardware
    threads, own = hardware.host.predictor_threads, policy_time(hardware, policy.name).ns()
    return Textbook(policy, cell.setup, make_signals(cell, policy), cell.costs, hardware.link.depth, threads, own)


def main(words: list[str]) -> None:
    given = {word.partition("=")[0] for word in words}
    cell = make_cell(read_config([*(word for word in USUAL if word.partition("=")[0] not in given), *words]))
    found = in_turns({"engine": (cell, engine), "textbook": (cell, textbook)})
    assert found["engine"].accounts == found["textbook"].accounts, "the engine and the textbook machine disagree"
    steps = layer_steps(cell)
    print(
        f"{cell.config.policy['name']}, {len(cell.selection.measured)} requests, {steps:,} layer-steps, accounts equal"
    )
    for name, turns in found.items():
        print(f"  {name:<9} {steps / turns.median:>10,.0f} layer-steps/s")
    ratio, least, most = found["engine"].speed_beside(found["textbook"])
    print(f"  ratio     {ratio:>10.2f} ({least:.2f} to {most:.2f})")


if __name__ == "__main__":
    main(sys.argv[1:])
