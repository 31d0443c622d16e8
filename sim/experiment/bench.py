"""``python -m sim bench``: the engine's speed and memory, or what policies cost to replay.

A replay of all requests, whose memory is read while it runs. ``beside=`` instead puts other policies beside the
configured one, in turns, and ``policy_us=`` measures what the decisions of policies take.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from sim.cli import split_output, wants_help
from sim.core.accounts import PHASES, Accounts
from sim.experiment.cell import Cell, make_cell
from sim.experiment.compose import choices, read_config
from sim.experiment.make import make_core, make_machine, make_policy, passes_of
from sim.experiment.policy_time import BASELINE, REPEAT, Logged, measure_policy_time
from sim.experiment.run import simulate
from sim.machine.machine import Machine
from traces.kit.errors import UserError, allowing

DEFAULTS = ("budget=25%", "chunks=3", "bounds=false")
FEW = "limit=10"  # requests of what is measured in turns
TURNS = 3  # the best of each counts
BESIDE = "beside"
DECISIONS = "policy_us"
UNITS = "layer-step: one layer of one forward pass; s: the process's own CPU time"


def main(words: Sequence[str]) -> int:
    """Run the benchmark with the configuration of ``sim run``; returns the exit status."""
    if wants_help(words):
        sys.stdout.write(HELP)
        return 0
    overrides, output = split_output(words, writes=False)
    given = {word.partition("=")[0] for word in overrides}
    overrides = [*(word for word in DEFAULTS if word.partition("=")[0] not in given), *overrides]
    report, show = _alone, _show_alone
    for mode, run, table in ((BESIDE, _beside, _show_beside), (DECISIONS, _decisions, _show_decisions)):
        if mode in given:
            names = _policies(mode, [word for word in overrides if word.partition("=")[0] == mode])
            overrides = [word for word in overrides if word.partition("=")[0] != mode]
            report, show = partial(run, names), table
            break
    found = report(overrides)
    sys.stdout.write(json.dumps(found, indent=1) + "\n" if output["format"] == "json" else show(found))
    return 0


def _policies(key: str, words: Sequence[str]) -> list[str]:
    """The policies that ``KEY=POLICY,...`` names, each once. UserError for one that there is not, an empty one too."""
    known = choices("policy")
    names = list(dict.fromkeys(name for word in words for name in word.partition("=")[2].split(",")))
    for name in names:
        if name not in known:
            raise UserError(f"{key}={name}: unknown; {allowing(name, known)}")
    return names


def in_turns(made: Mapping[str, tuple[Cell, Callable[[Cell], Any]]]) -> dict[str, tuple[float, Accounts]]:
    """Machines that replay the measured requests of their cells, in turns: by name the best CPU time, and accounts.

    ``made``: each one's cell, and what makes it a fresh machine; what that takes (a policy learns) is not timed.
    """
    found: dict[str, tuple[float, Accounts]] = {}
    for turn in range(TURNS):
        for name, (cell, make) in made.items():
            sys.stderr.write(f"{name}, {turn + 1} of {TURNS} ...\n")
            seconds, accounts = _timed(cell, make(cell))
            found[name] = (min(seconds, found[name][0]) if turn else seconds, accounts)
    return found


def _timed(cell: Cell, machine: Any) -> tuple[float, Accounts]:
    """CPU seconds of a replay of the measured requests, and its accounts."""
    began = time.process_time()
    accounts: Accounts = machine.run([], passes_of(cell, cell.selection.measured))
    return time.process_time() - began, accounts


def engine(cell: Cell, progress: Callable[[int], None] | None = None) -> Machine:
    """A fresh engine of a cell, with its policy."""
    return make_machine(cell, make_core(cell, make_policy(cell)), progress)


def _beside(others: Sequence[str], words: Sequence[str]) -> dict[str, Any]:
    """The engine with the configured policy and with others, in turns on the same requests."""
    own = next((word.partition("=")[2] for word in words if word.startswith("policy=")), "lru")
    rest = [word for word in words if not word.startswith("policy=")]
    names = dict.fromkeys([own, *others])
    cells = {name: make_cell(read_config([*rest, f"policy={name}"])) for name in names}
    seconds = {name: best for name, (best, _) in in_turns({n: (cell, engine) for n, cell in cells.items()}).items()}
    steps = layer_steps(cells[own])
    return {
        "requests": len(cells[own].selection.measured),
        "layer_steps": steps,
        "policies": {n: {"layer_steps_per_s": steps / s, "ratio": seconds[own] / s} for n, s in seconds.items()},
    }


def _show_beside(found: Mapping[str, Any]) -> str:
    own = next(iter(found["policies"]))
    lines = [f"side by side, {found['requests']} requests, {found['layer_steps']:,} layer-steps"]
    for name, row in found["policies"].items():
        lines.append(f"  {name:<34} {row['layer_steps_per_s']:>10,.0f} layer-steps/s  {row['ratio']:.3f} x {own}")
    return "\n".join([*lines, UNITS, ""])


def _decisions(given: Sequence[str], words: Sequence[str]) -> dict[str, Any]:
    """CPU time of policies' own decisions above on_demand's."""
    if not any(word.startswith("limit=") for word in words):
        words = [*words, FEW]
    rest = [word for word in words if not word.startswith(("policy=", "policy."))]
    own = [word for word in words if word.startswith("policy.")]
    on_demand = _logged(make_cell(read_config([*rest, f"policy={BASELINE}"])))
    found = {}
    for name in given:
        cell = make_cell(read_config([*rest, f"policy={name}", *own]))
        sys.stderr.write(f"{name}, {REPEAT} times in turns with {BASELINE} ...\n")
        taken = measure_policy_time(_logged(cell), on_demand, repeat=REPEAT)
        found[name] = {"policy": str(cell.config.policy["name"]), **asdict(taken)}
    return {"policies": found}


def _show_decisions(found: Mapping[str, Any]) -> str:
    """With the words that charge it."""
    lines = [f"CPU time of a policy's own decisions per pass, above {BASELINE}'s"]
    for name, row in found["policies"].items():
        charge = []
        for phase, it in ((phase, row[phase]) for phase in PHASES if row[phase] is not None):
            lines.append(
                f"  {name:<34} {phase:<7} {it['us'] / 1000:>7.3f} ms  turns {it['lowest_us'] / 1000:.3f} to"
                f" {it['highest_us'] / 1000:.3f}, {it['passes']:,} passes of {it['tokens']:.1f} tokens"
            )
            if us := round(it["us"], 1):
                charge.append(f"+hardware.software.policy_us.{row['policy']}.{phase}={us}")
        lines.append(f"    {' '.join(charge) or 'nothing to charge'}")
    return "\n".join([*lines, ""])


def _logged(cell: Cell) -> Logged:
    """A simulated run's log, and fresh cores for it."""
    return Logged(simulate(cell, make_policy(cell), record=True).core.log, lambda: make_core(cell, make_policy(cell)))


def _alone(words: Sequence[str]) -> dict[str, Any]:
    """Replay everything; memory is read every thousand passes, from the kernel."""
    cell = make_cell(read_config(words))
    private: list[int] = []
    passes = 0

    def note(_rows: int) -> None:
        nonlocal passes
        passes += 1
        if passes % 1000 == 0:
            private.append(_private_bytes())

    machine = engine(cell, note)
    seconds, accounts = _timed(cell, machine)
    half, steps = len(private) // 2, layer_steps(cell)
    return {
        "policy": cell.config.policy["name"],
        "requests": len(cell.selection.measured),
        "tokens": sum(t.prefill_rows + t.decode_steps for t in machine.timings.requests.values()),
        "layer_steps": steps,
        "lookups": accounts.hit_row()[0],
        "seconds": seconds,
        "layer_steps_per_s": steps / seconds,
        "peak_resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "private_bytes_first_half": max(private[:half], default=_private_bytes()),
        "private_bytes_second_half": max(private[half:], default=_private_bytes()),
    }


def _show_alone(found: Mapping[str, Any]) -> str:
    mb = 1e6
    return (
        f"policy {found['policy']}, {found['requests']} requests, {found['tokens']:,} tokens,"
        f" {found['layer_steps']:,} layer-steps, {found['lookups']:,} lookups\n"
        f"  speed     {found['layer_steps_per_s']:>10,.0f} layer-steps/s, {found['seconds']:.1f} s\n"
        f"  memory    {found['peak_resident_bytes'] / mb:>10,.0f} MB at the peak, mapped input included\n"
        f"  private   {found['private_bytes_first_half'] / mb:>10,.1f} MB in the first half of the passes,"
        f" {found['private_bytes_second_half'] / mb:,.1f} MB in the second\n"
        f"{UNITS}; MB: 10^6 bytes\n"
    )


def layer_steps(cell: Cell) -> int:
    """Of the measured requests."""
    return sum(len(step.demand) for step in passes_of(cell, cell.selection.measured))


def _private_bytes() -> int:
    """Memory of this process that is not mapped from files."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


HELP = """\
python -m sim bench [KEY=VALUE ...]

Replays all requests and measures the engine's speed and memory. Takes the keys
of sim run; budget=25% chunks=3 unless given. Seconds are the process's own CPU
time.

With beside=POLICY,... these policies run in turns with the configured one
instead, on the same requests. With policy_us=POLICY,... it measures instead
what the decisions of each take on this CPU: microseconds per pass above
on_demand's, and the words with which sim run charges them; limit= sets the
requests (10).

  python -m sim bench
  python -m sim bench trace=DIR model=gpt_oss_20b
  python -m sim bench policy=lru beside=gate_ahead,lfru budget=8GB chunks=1
  python -m sim bench policy_us=gate_ahead,fmoe budget=8GB chunks=1
"""
