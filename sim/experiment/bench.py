"""``python -m sim bench``: the engine beside the textbook machine, in layer-steps per second and in memory.

Both replay the same requests with the same policy and must agree on every account. Then the engine alone replays
all requests, in a process of its own whose memory is read while it runs. ``beside=`` instead puts other policies beside
the configured one, and ``policy_us=`` measures what the decisions of policies take.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from sim.cli import split_output, wants_help
from sim.core.replay import RecordingCore
from sim.experiment.cell import Cell, make_cell
from sim.experiment.compose import choices, read_config
from sim.experiment.policy_time import BASELINE, REPEAT, Logged, measure_policy_time
from sim.experiment.run import simulate
from traces.kit.errors import UserError, allowing

DEFAULTS = ("budget=25%", "chunks=3", "bounds=false")
FEW = "limit=10"  # requests of what is measured in turns
PAIRS = 3  # the two machines take turns; the best of each counts
BESIDE = "beside"
DECISIONS = "policy_us"
UNITS = "layer-step: one layer of one forward pass; s: the process's own CPU time; MB: 10^6 bytes"
ALONE = "alone"  # the mark of the process that measures memory


def main(words: Sequence[str]) -> int:
    """Run the benchmark with the configuration of ``sim run``; ``limit=`` applies to the side-by-side part."""
    if wants_help(words):
        sys.stdout.write(HELP)
        return 0
    if words and words[0] == ALONE:
        sys.stdout.write(json.dumps(_alone(words[1:])))
        return 0
    overrides, output = split_output(words, writes=False)
    given = {word.partition("=")[0] for word in overrides}
    overrides = [*(word for word in DEFAULTS if word.partition("=")[0] not in given), *overrides]
    for mode, run in ((BESIDE, _beside), (DECISIONS, _decisions)):
        if mode in given:
            names = _policies(mode, [word for word in overrides if word.partition("=")[0] == mode])
            return run([word for word in overrides if word.partition("=")[0] != mode], names, output["format"])
    side = overrides if "limit" in given else [*overrides, FEW]
    report = _side_by_side(make_cell(read_config(side)))
    whole = [word for word in overrides if word.partition("=")[0] != "limit"]
    sys.stderr.write("all requests, the engine alone ...\n")
    command = [sys.executable, "-m", "sim", "bench", ALONE, *whole]
    report["alone"] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)  # noqa: S603
    if output["format"] == "json":
        sys.stdout.write(json.dumps(report, indent=1) + "\n")
    else:
        _print(report)
    return 0


def _policies(key: str, words: Sequence[str]) -> list[str]:
    """The policies that ``KEY=POLICY,...`` names, each once. UserError for one that there is not, an empty one too."""
    known = choices("policy")
    names = list(dict.fromkeys(name for word in words for name in word.partition("=")[2].split(",")))
    for name in names:
        if name not in known:
            raise UserError(f"{key}={name}: unknown; {allowing(name, known)}")
    return names


def _side_by_side(cell: Cell) -> dict[str, Any]:
    textbook = _textbook()
    best = {"engine": float("inf"), "textbook": float("inf")}
    accounts = {}
    for turn in range(PAIRS):
        for name in best:
            sys.stderr.write(f"{name}, {turn + 1} of {PAIRS} ...\n")
            policy = cell.policy()
            if name == "engine":
                machine: Any = cell.machine(cell.core(policy))
            else:
                link, threads = cell.hardware.link, cell.hardware.host.predictor_threads
                own = cell.policy_time(policy.name).ns()
                machine = textbook(policy, cell.setup, cell.signals(policy), cell.costs, link.depth, threads, own)
            began = time.process_time()
            accounts[name] = machine.run([], cell.passes(cell.selection.measured))
            best[name] = min(best[name], time.process_time() - began)
    if accounts["engine"] != accounts["textbook"]:
        raise AssertionError("the engine and the textbook machine disagree")
    layer_steps = _layer_steps(cell)
    return {
        "policy": cell.config.policy["name"],
        "requests": len(cell.selection.measured),
        "layer_steps": layer_steps,
        "engine_layer_steps_per_s": layer_steps / best["engine"],
        "textbook_layer_steps_per_s": layer_steps / best["textbook"],
        "ratio": best["textbook"] / best["engine"],
    }


def _beside(words: Sequence[str], others: Sequence[str], form: str) -> int:
    """The engine with the configured policy and with others, in turns on the same requests; the best of each counts."""
    own = next((word.partition("=")[2] for word in words if word.startswith("policy=")), "lru")
    rest = [word for word in words if not word.startswith("policy=")]
    names = list(dict.fromkeys([own, *others]))
    cells = {name: make_cell(read_config([*rest, f"policy={name}"])) for name in names}
    best = dict.fromkeys(names, float("inf"))
    for turn in range(PAIRS):
        for name, cell in cells.items():
            sys.stderr.write(f"{name}, {turn + 1} of {PAIRS} ...\n")
            machine = cell.machine(cell.core(cell.policy()))  # what is learned before the first step is not timed
            began = time.process_time()
            machine.run([], cell.passes(cell.selection.measured))
            best[name] = min(best[name], time.process_time() - began)
    layer_steps = _layer_steps(cells[own])
    rows = {name: {"layer_steps_per_s": layer_steps / s, "ratio": best[own] / s} for name, s in best.items()}
    if form == "json":
        sys.stdout.write(json.dumps({"layer_steps": layer_steps, "policies": rows}, indent=1) + "\n")
        return 0
    sys.stdout.write(f"side by side, {len(cells[own].selection.measured)} requests, {layer_steps:,} layer-steps\n")
    for name, row in rows.items():
        sys.stdout.write(f"  {name:<34} {row['layer_steps_per_s']:>10,.0f} layer-steps/s  {row['ratio']:.3f} x {own}\n")
    sys.stdout.write(f"{UNITS.rpartition(';')[0]}\n")
    return 0


def _decisions(words: Sequence[str], given: Sequence[str], form: str) -> int:
    """CPU time of policies' own decisions above on_demand's, and the words that charge it."""
    if not any(word.startswith("limit=") for word in words):
        words = [*words, FEW]
    rest = [word for word in words if not word.startswith(("policy=", "policy."))]
    own = [word for word in words if word.startswith("policy.")]
    on_demand = _logged(make_cell(read_config([*rest, f"policy={BASELINE}"])))
    found = {}
    for name in given:
        cell = make_cell(read_config([*rest, f"policy={name}", *own]))
        sys.stderr.write(f"{name}, {REPEAT} times in turns with {BASELINE} ...\n")
        found[name] = (str(cell.config.policy["name"]), measure_policy_time(_logged(cell), on_demand, repeat=REPEAT))
    if form == "json":
        rows = {name: {"policy": policy, **asdict(taken)} for name, (policy, taken) in found.items()}
        sys.stdout.write(json.dumps({"policies": rows}, indent=1) + "\n")
        return 0
    sys.stdout.write(f"CPU time of a policy's own decisions per pass, above {BASELINE}'s\n")
    for name, (policy, taken) in found.items():
        for phase, it in (("prefill", taken.prefill), ("decode", taken.decode)):
            if it is not None:
                sys.stdout.write(
                    f"  {name:<34} {phase:<7} {it.us / 1000:>7.3f} ms  turns {it.lowest_us / 1000:.3f} to"
                    f" {it.highest_us / 1000:.3f}, {it.passes:,} passes of {it.tokens:.1f} tokens\n"
                )
        above = {phase: us for phase, us in taken.policy_us().items() if us}
        charge = (f"+hardware.software.policy_us.{policy}.{phase}={us}" for phase, us in above.items())
        sys.stdout.write(f"    {' '.join(charge) or 'nothing to charge'}\n")
    return 0


def _logged(cell: Cell) -> Logged:
    """A simulated run's log, and fresh cores for it."""
    core = simulate(cell, cell.policy(), record=True).core
    assert isinstance(core, RecordingCore)
    return Logged(core.log, lambda: cell.core(cell.policy()))


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

    machine = cell.machine(cell.core(cell.policy()), note)
    began = time.process_time()
    accounts = machine.run([], cell.passes(cell.selection.measured))
    seconds = time.process_time() - began
    half = len(private) // 2
    return {
        "requests": len(cell.selection.measured),
        "tokens": sum(t.prefill_rows + t.decode_steps for t in machine.timings.requests.values()),
        "layer_steps": _layer_steps(cell),
        "lookups": accounts.hit_row()[0],
        "seconds": seconds,
        "layer_steps_per_s": _layer_steps(cell) / seconds,
        "peak_resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "private_bytes_first_half": max(private[:half], default=_private_bytes()),
        "private_bytes_second_half": max(private[half:], default=_private_bytes()),
    }


def _layer_steps(cell: Cell) -> int:
    return sum(len(step.demand) for step in cell.passes(cell.selection.measured))


def _private_bytes() -> int:
    """Memory of this process that is not mapped from files."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def _textbook() -> Any:
    folder = Path(__file__).resolve().parents[2] / "tests"
    if not (folder / "sim" / "machine" / "textbook.py").exists():
        raise UserError("bench: the textbook machine is in tests/sim/machine, which only a checkout has; run it there")
    sys.path.insert(0, str(folder.parent))
    return import_module("tests.sim.machine.textbook").Textbook


def _print(report: dict[str, Any]) -> None:
    alone = report["alone"]
    mb = 1e6
    sys.stdout.write(
        f"side by side, policy {report['policy']}, {report['requests']} requests,"
        f" {report['layer_steps']:,} layer-steps, accounts equal\n"
        f"  engine    {report['engine_layer_steps_per_s']:>10,.0f} layer-steps/s\n"
        f"  textbook  {report['textbook_layer_steps_per_s']:>10,.0f} layer-steps/s\n"
        f"  ratio     {report['ratio']:>10.2f}\n"
        f"the engine alone, {alone['requests']} requests, {alone['tokens']:,} tokens,"
        f" {alone['layer_steps']:,} layer-steps, {alone['lookups']:,} lookups\n"
        f"  speed     {alone['layer_steps_per_s']:>10,.0f} layer-steps/s, {alone['seconds']:.1f} s\n"
        f"  memory    {alone['peak_resident_bytes'] / mb:>10,.0f} MB at the peak, mapped input included\n"
        f"  private   {alone['private_bytes_first_half'] / mb:>10,.1f} MB in the first half of the passes,"
        f" {alone['private_bytes_second_half'] / mb:,.1f} MB in the second\n"
        f"{UNITS}\n"
    )


HELP = """\
python -m sim bench [KEY=VALUE ...]

Measures the engine beside the textbook machine of tests/sim/machine on the same
requests, and then the engine alone on all requests, with its memory. Takes the
keys of sim run; budget=25% chunks=3 unless given; limit= sets the requests of
the side-by-side part (10). Seconds are the process's own CPU time.

With beside=POLICY,... these policies run in turns with the configured one
instead, on all requests. With policy_us=POLICY,... it measures instead what the
decisions of each take on this CPU: microseconds per pass above on_demand's, and
the words with which sim run charges them; limit= sets the requests (10).

  python -m sim bench
  python -m sim bench trace=DIR model=gpt_oss_20b
  python -m sim bench policy=lru beside=gate_ahead,lfru budget=8GB chunks=1
  python -m sim bench policy_us=gate_ahead,fmoe budget=8GB chunks=1
"""
