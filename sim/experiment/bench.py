"""``python -m sim bench``: the engine's speed and memory, or what policies cost to replay.

A replay of all requests, whose memory is read while it runs. ``beside=`` instead puts other policies beside the
configured one, in turns, and ``policy_us=`` measures what the decisions of policies take.
"""

import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from statistics import median
from typing import Annotated, Any

from sim.core.accounts import PHASES, Accounts
from sim.experiment.cell import Cell, make_cell, make_core, make_machine, make_policy, passes_of
from sim.experiment.compose import read_config
from sim.experiment.groups import choices
from sim.experiment.policy_time import BASELINE, REPEAT, Logged, measure_policy_time
from sim.experiment.run import simulate
from sim.experiment.words import ROOTS
from sim.machine.machine import Machine
from traces.kit.errors import meant, one_of
from traces.kit.strict import dump_json
from traces.kit.vocabulary import Format
from traces.kit.words import Others

DEFAULTS = ("budget=25%", "chunks=3", "bounds=false")
FEW = "limit=10"  # requests of what is measured in turns
TURNS = 5  # of what runs in turns; the median counts
UNITS = "layer-step: one layer of one forward pass; s: the process's own CPU time"


def _policies(value: str) -> tuple[str, ...]:
    """A mark: names of policies, each once."""
    known = choices("policy")
    names = tuple(dict.fromkeys(value.split(",")))
    for name in names:
        if name not in known:
            raise ValueError(f"{one_of(known)}; not {name or 'nothing'}{meant(name, known)}")
    return names


@dataclass(frozen=True, kw_only=True)
class Options:
    """Replays all requests and measures the engine's speed and memory. Takes the keys
    of python -m sim run, but for out; budget=25% chunks=3 unless given. Seconds are
    the process's own CPU time.

    {keys}

      python -m sim bench
      python -m sim bench trace=DIR model=gpt_oss_20b
      python -m sim bench policy=lru beside=gate_ahead,lfru budget=8GB chunks=1
      python -m sim bench policy_us=gate_ahead,fmoe budget=8GB chunks=1
    """

    beside: Annotated[
        tuple[str, ...],
        _policies,
        "policies, comma-separated, that run in turns with the configured one instead, on the same requests",
    ] = ()
    policy_us: Annotated[
        tuple[str, ...],
        _policies,
        "policies: what the decisions of each take on this CPU instead, microseconds per pass above on_demand's, and"
        " the words with which sim run charges them; of 10 requests, unless limit= is given",
    ] = ()
    format: Format = "table"
    rest: Annotated[tuple[str, ...], Others(ROOTS), ""] = ()


def main(options: Options) -> None:
    """Run the benchmark with the configuration of ``sim run``."""
    given = {word.partition("=")[0] for word in options.rest}
    words = [*(word for word in DEFAULTS if word.partition("=")[0] not in given), *options.rest]
    if options.beside:
        found, show = _beside(options.beside, words), _show_beside
    elif options.policy_us:
        found, show = _decisions(options.policy_us, words), _show_decisions
    else:
        found, show = _alone(words), _show_alone
    sys.stdout.write(dump_json(found) if options.format == "json" else show(found))


@dataclass(frozen=True, slots=True)
class Turns:
    """What a machine took for the same requests, turn by turn."""

    seconds: list[float]  # CPU time
    accounts: list[Accounts]

    @property
    def median(self) -> float:
        return median(self.seconds)

    def speed_beside(self, other: "Turns") -> tuple[float, float, float]:
        """How many times as fast as another, which ran beside it: of the turns' ratios the median, least and most."""
        ratios = [theirs / own for own, theirs in zip(self.seconds, other.seconds, strict=True)]
        return median(ratios), min(ratios), max(ratios)


def in_turns(made: Mapping[str, tuple[Cell, Callable[[Cell], Any]]]) -> dict[str, Turns]:
    """Machines that replay the measured requests of their cells, in turns, by name.

    ``made``: each one's cell, and what makes it a fresh machine; what that takes (a policy learns) is not timed.
    """
    found = {name: Turns([], []) for name in made}
    for turn in range(TURNS):
        for name, (cell, make) in made.items():
            sys.stderr.write(f"{name}, {turn + 1} of {TURNS} ...\n")
            seconds, accounts = _timed(cell, make(cell))
            found[name].seconds.append(seconds)
            found[name].accounts.append(accounts)
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
    found, steps = in_turns({n: (cell, engine) for n, cell in cells.items()}), layer_steps(cells[own])
    rows = {}
    for name, turns in found.items():
        ratio, least, most = turns.speed_beside(found[own])
        rows[name] = {"layer_steps_per_s": steps / turns.median, "ratio": ratio, "least": least, "most": most}
    return {
        "requests": len(cells[own].selection.measured),
        "layer_steps": steps,
        "turns": TURNS,
        "policies": rows,
    }


def _show_beside(found: Mapping[str, Any]) -> str:
    own = next(iter(found["policies"]))
    lines = [f"in {found['turns']} turns, medians: {found['requests']} requests, {found['layer_steps']:,} layer-steps"]
    for name, row in found["policies"].items():
        ratio = f"{row['ratio']:.3f} x {own}"
        if name != own:
            ratio += f" ({row['least']:.3f} to {row['most']:.3f})"
        lines.append(f"  {name:<34} {row['layer_steps_per_s']:>10,.0f} layer-steps/s  {ratio}")
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
        phases = {phase: asdict(taken[phase]) if phase in taken else None for phase in PHASES}
        found[name] = {"policy": str(cell.config.policy["name"]), **phases}
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
    private, passes = list[int](), count(1)

    def note(_rows: int) -> None:
        if next(passes) % 1000 == 0:
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
