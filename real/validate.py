"""`python -m real validate`: the device and the simulator on the same routing, and how far apart they are."""

from __future__ import annotations

import json
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from real.grid import names_hardware, read_cells
from real.run import prepare
from real.words import divide, host_bytes, is_checkpoint
from sim.experiment.cell import Cell, make_cell
from sim.experiment.config import RunConfig
from sim.experiment.make import make_policy
from traces.kit.errors import UserError, one_of
from traces.kit.options import check_choice, check_range

if TYPE_CHECKING:
    import torch

    from real.runtime.offloaded import Offloaded
    from real.validation.compare import Logs

USAGE = """\
python -m real validate [policy=NAME[,NAME]] [budget=SIZE[,SIZE]] [trace=DIR]
                        [key=value ...]

Runs a recorded trace's routing on a device and in the simulator, and prints how
far the prediction was off, the worst cell first. The device's log of facts,
replayed without a clock, must give the device's decisions and its hit rates.
All keys of python -m sim run; several values, separated by commas, make a grid,
for which the model is loaded once.

  trace       a recorded trace; without it and model=, the reference model's own
              sample  [sample]
  model       of conf/model, or a checkpoint, priced as it is  [reference]
  checkpoint  weights for a model= of conf/model that ships none
  weights     auto | random (of model='s shape, without a checkpoint)  [auto]
  hardware    the machine that is predicted; without it this one is measured
              first, in about 30 s
  device      auto | cpu | cuda | cuda:N  [auto]
  threads     CPU threads; 0: torch's choice. As many as the profile was
              measured with  [0]
  exact       true: experts are computed one by one, whatever is in memory |
              false: in the library's grouped kernel where it is fast  [true]
  host_memory what the host has for the model, such as 110GB, where it shows
              less as free  [what is free]
  repeat      runs of each cell on the device; the one of median time is shown
              [1]
  diff        true: show in words where device and simulator first part  [false]
  logs        true: keep both logs of facts of every cell, for python -m real
              diff  [false]
  out         folder of the results; empty: real/results/HARDWARE
  name        of the result's files; empty: the model's
  format      table, or json: the content of the result's file  [table]
  --config    FILE: resolved configurations, where Hydra is not installed
              (python -m sim config -m); beside it hardware=FILE.yaml and
              trace=DIR alone may be given

Written: NAME.json, NAME.md, NAME.png. Exit status: 0; 1 where a replay does not
agree; 2 where a cell could not be run.

  python -m real validate policy=lru,gate_ahead budget=25%,50%,75% limit=2
"""
SECONDS = 20


@dataclass(frozen=True)
class Options:
    """See USAGE."""

    checkpoint: str = ""
    weights: str = "auto"
    device: str = "auto"
    threads: int = 0
    repeat: int = 1
    diff: str = "false"
    logs: str = "false"
    out: str = ""
    name: str = ""
    format: str = "table"
    config: str = ""
    host_memory: str = ""
    exact: str = "true"

    def check(self) -> None:
        """UserError for a value that is not known."""
        check_choice("weights", self.weights, ("auto", "random"))
        check_choice("diff", self.diff, ("true", "false"))
        check_choice("logs", self.logs, ("true", "false"))
        check_choice("format", self.format, ("table", "json"))
        check_range("threads", self.threads, 0, 4096)
        host_bytes(self.host_memory)
        check_choice("exact", self.exact, ("true", "false"))
        check_range("repeat", self.repeat, 1, 1000)
        if self.name and not re.fullmatch(r"[\w.-]+", self.name):
            raise UserError(f"name={self.name}: allowed: letters, digits, '.', '_' and '-'")
        if self.out and Path(self.out).exists() and not Path(self.out).is_dir():
            raise UserError(f"out={self.out}: not a folder")


@dataclass
class Grid:
    """What came of the cells."""

    cells: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    logs: list[tuple[Mapping[str, Any], Logs]] = field(default_factory=list)


def main(words: Sequence[str]) -> int:
    """Run the command; returns the exit status. UserError for what the user can mend."""
    options, rest = divide(words, Options)
    options.check()
    given = names_hardware(rest, options.config)
    configs = read_cells(rest, options.config)  # a mistake is told before anything is measured
    prepare(options.threads)
    from traces.models.devices import device_of

    device = device_of(options.device)
    named = [word.partition("=")[2] for word in rest if is_checkpoint(word)]
    bench = Bench(options, device, options.checkpoint or (named[0] if named else ""))
    if not given:
        hardware = bench.measure_machine(first_cell(configs))
        configs = [replace(config, hardware=hardware) for config in configs]
    grid = Grid()
    for config in configs:
        run_cell(config, bench, grid)
    if not grid.cells:
        raise UserError(f"no cell could be run: {grid.failed[0]['error']}")
    return conclude(grid, bench)


def conclude(grid: Grid, bench: Bench) -> int:
    """Write and show what came of the cells; the exit status."""
    from real.validation.ran import runtime_digest
    from real.validation.writing import Source, document_of, word, write_logs, write_results
    from traces.calibrate.machine import describe, now

    options = bench.options
    assert bench.cell is not None
    about = (describe(bench.device), options.weights, bench.checkpoint, options.repeat, now(), runtime_digest())
    document = document_of(grid.cells, grid.failed, Source(bench.cell, *about, exact=options.exact == "true"))
    source = document["provenance"]
    folder = Path(options.out) if options.out else Path("real") / "results" / word(source["hardware"]["name"])
    if options.logs == "true":
        for row, logs in grid.logs:
            write_logs(folder, options.name or word(source["model"]["name"]), row, logs)
    write_results(document, folder, options.name)
    if options.format == "json":
        sys.stdout.write(json.dumps(document, indent=1, allow_nan=False) + "\n")
    else:
        _show(document)
        if options.diff == "true":
            sys.stdout.write("\n" + differences_in_words(document))
    _say(f"written to {folder}")
    if any(not (row["replay"]["agrees"] and row["replay"]["accounts_agree"]) for row in grid.cells):
        _say("error: a replay without a clock does not give what the device decided")
        return 1
    return 2 if grid.failed else 0


def _show(document: Mapping[str, Any]) -> None:
    """As tables; as the Markdown of its file where rich is not installed."""
    try:
        from real.validation.shown import show
    except ImportError:
        from real.validation.verdict import markdown

        sys.stdout.write(markdown(document))
        return
    from sim.cli import stdout_console

    show(document, stdout_console())


def first_cell(configs: Sequence[RunConfig]) -> Cell:
    """The first cell that can be made at all; its mistake where none can."""
    mistakes = []
    for config in configs:
        try:
            return make_cell(replace(config, bounds=False))
        except UserError as error:
            mistakes.append(error)
    raise mistakes[0]


class Bench:
    """The device, and the model that is on it: loaded once for cells that follow one another."""

    def __init__(self, options: Options, device: torch.device, checkpoint: str) -> None:
        self.options, self.device, self.checkpoint = options, device, checkpoint
        self.cell: Cell | None = None
        """The last cell that was run."""
        self._key: tuple[str, str, int] | None = None
        self._model: Offloaded | None = None

    def model(self, cell: Cell) -> Offloaded:
        """The cell's model. UserError where it cannot be had, or computes in no dtype of ours."""
        from real.runtime.models import Where
        from traces.models.shapes import DTYPES

        name, dtype = self.checkpoint or cell.model.name, cell.costs.dtype
        if dtype not in DTYPES:
            raise UserError(f"model.dtype={dtype}: a device computes here in {one_of(DTYPES)}; give one of these")
        key = (name, dtype, cell.setup.n_layers)
        if key != self._key:
            if self._model is not None:  # its memory first
                self._model.store.close()
            self._model = self._key = None
            where = Where(str(self.device), host_bytes(self.options.host_memory), self.options.exact == "true")
            self._model, self._key = where.open(name, dtype, self.options.weights, cell.setup.n_layers), key
            self._warm(cell, self._model)
        assert self._model is not None
        return self._model

    def _warm(self, cell: Cell, model: Offloaded) -> None:
        """The first request, unmeasured: what a device does once (its kernels, its memory) is in no cell."""
        from real.runtime.recorded import run_forced
        from real.session import on_device

        config = replace(on_device(cell, model).config, policy={"name": "lru"}, limit=1, warmup=0, bounds=False)
        small = make_cell(config)
        run_forced(small, model, make_policy(small))

    def measure_machine(self, cell: Cell) -> dict[str, Any]:
        """A profile of this device, of the shape that is run, with the runtime's overheads on synthetic routing."""
        import tempfile

        from real import calibrate
        from real.grid import read_profile
        from traces.calibrate import cli

        _say(f"no hardware= was given: measuring this machine for about {SECONDS} s, and the runtime on it")
        name = "cpu_here" if self.device.type == "cpu" else "gpu_here"
        shape, dtype = self.checkpoint or cell.model.name, cell.costs.dtype
        model = self.model(cell)
        with tempfile.TemporaryDirectory(prefix="moe-offload-") as folder:
            path = Path(folder) / f"{name}.yaml"
            cli.run(
                cli.Options(str(path), shape, str(self.device), SECONDS, dtype=dtype, threads=self.options.threads),
                [shape],
                path,
            )
            profile = read_profile(path)
        plan = calibrate.Options(
            "", "", shape, "", self.options.weights, "auto", str(self.device), threads=self.options.threads
        )
        return calibrate.add_overheads(model, dict(cell.config.model), profile, name, plan)


def run_cell(config: RunConfig, bench: Bench, grid: Grid) -> None:
    """Run one cell; what goes wrong is listed, and stops no other."""
    from real.session import on_device
    from real.validation.compare import compare
    from real.validation.verdict import label

    where = {"policy": label(config.policy), "budget": str(config.budget)}
    try:
        cell = make_cell(replace(config, bounds=False))
        model = bench.model(cell)
        cell = on_device(cell, model)
        row, logs = compare(cell, model, bench.options.repeat)
    except UserError as error:
        grid.failed.append(where | {"error": " ".join(str(error).split())})
        _say(f"error: {where['policy']} at {where['budget']}: {error}")
        return
    except Exception as error:  # a bug of ours, or a device that gave up: the other cells are still worth having
        traceback.print_exc()
        grid.failed.append(where | {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})
        return
    bench.cell = cell
    grid.cells.append(row)
    if bench.options.logs == "true":
        grid.logs.append((row, logs))
    _say(f"{where['policy']} at {where['budget']}: {_brief(row)}")


def differences_in_words(document: Mapping[str, Any]) -> str:
    """Where device and simulator part, for each cell."""
    from real.diff import Difference, lines
    from real.validation.verdict import label

    text = []
    for row in document["cells"]:
        found = [
            Difference(it["of"], it["same_before"], it["device"], it["simulated"]) for it in row["first_differences"]
        ]
        text.append(f"{label(row['policy'])} at {row['budget']}\n{lines(found, ('device', 'simulator'))}")
    return "\n".join(text)


def _brief(row: Mapping[str, Any]) -> str:
    tpot, replay = row["errors"]["tpot_ms"], row["replay"]
    off = "no TPOT" if tpot["error"] is None else f"TPOT {tpot['device']:.3g} ms, off by {tpot['error']:+.1%}"
    return f"{off}, replay {'agrees' if replay['agrees'] and replay['accounts_agree'] else 'DIFFERS'}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
