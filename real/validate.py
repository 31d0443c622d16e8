"""`python -m real validate`: the device and the simulator on the same routing, and how far apart they are."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from real.runtime.prepare import prepare
from real.words import Checkpoint, Configured, Weights, is_checkpoint, names_hardware, read_cells
from sim.experiment.cell import Cell, make_cell
from sim.experiment.config import RunConfig
from sim.experiment.make import make_policy
from traces.kit.errors import UserError, one_of
from traces.kit.words import Between, folder, plain_name

if TYPE_CHECKING:
    import torch

    from real.runtime.offloaded import Offloaded
    from real.validation.compare import Logs

SECONDS = 20


@dataclass(frozen=True, kw_only=True)
class Options(Configured):
    """Runs a recorded trace's routing on a device and in the simulator, and prints how
    far the prediction was off, the worst cell first. The device's log of facts,
    replayed without a clock, must give the device's decisions and its hit rates.

    Takes all keys of python -m sim run; several values, separated by commas, make a
    grid, for which the model is loaded once. Without trace= and model= it is the
    reference model's own sample; model= is a name of conf/model, or a checkpoint,
    priced as it is. hardware= is the machine that is predicted; without it this one
    is measured first, in about 30 s. As many threads= as the profile was measured
    with. Beside --config (python -m sim config -m) hardware=FILE.yaml and trace=DIR
    alone may be given.

    {keys}

    Written: NAME.json, NAME.md, NAME.png. Exit status: 0; 1 where a replay does not
    agree; 2 where a cell could not be run.

      python -m real validate policy=lru,gate_ahead budget=25%,50%,75% limit=2
    """

    checkpoint: Checkpoint = ""
    weights: Weights = "auto"
    repeat: Annotated[int, Between(1, 1000), "runs of each cell on the device; the one of median time is shown"] = 1
    diff: Annotated[bool, "show in words where device and simulator first part"] = False
    logs: Annotated[bool, "keep both logs of facts of every cell, for python -m real diff"] = False
    out: Annotated[Path | Literal[""], folder, "of the results; empty: real/results/HARDWARE"] = ""
    name: Annotated[str, plain_name, "of the result's files; empty: the model's"] = ""


@dataclass
class Grid:
    """What came of the cells."""

    cells: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    logs: list[tuple[Mapping[str, Any], Logs]] = field(default_factory=list)


def main(options: Options) -> int:
    """Run the command; returns the exit status. UserError for what the user can mend."""
    rest = options.rest
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
    document = document_of(grid.cells, grid.failed, Source(bench.cell, *about, exact=options.exact))
    source = document["provenance"]
    place = options.out or Path("real") / "results" / word(source["hardware"]["name"])
    if options.logs:
        for row, logs in grid.logs:
            write_logs(place, options.name or word(source["model"]["name"]), row, logs)
    write_results(document, place, options.name)
    if options.format == "json":
        sys.stdout.write(json.dumps(document, indent=1, allow_nan=False) + "\n")
    else:
        _show(document)
        if options.diff:
            sys.stdout.write("\n" + differences_in_words(document))
    _say(f"written to {place}")
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
            where = Where(str(self.device), self.options.host_memory, self.options.exact)
            self._model, self._key = where.open(name, dtype, self.options.weights, cell.setup.n_layers), key
            self._warm(cell, self._model)
        assert self._model is not None
        return self._model

    def _warm(self, cell: Cell, model: Offloaded) -> None:
        """The first request, unmeasured: what a device does once (its kernels, its memory) is in no cell."""
        from real.run.session import on_device
        from real.runtime.recorded import run_forced

        config = replace(on_device(cell, model).config, policy={"name": "lru"}, limit=1, warmup=0, bounds=False)
        small = make_cell(config)
        run_forced(small, model, make_policy(small))

    def measure_machine(self, cell: Cell) -> dict[str, Any]:
        """A profile of this device, of the shape that is run, with the runtime's overheads on synthetic routing."""
        import tempfile

        from real import calibrate
        from real.words import read_profile
        from traces.calibrate import cli

        _say(f"no hardware= was given: measuring this machine for about {SECONDS} s, and the runtime on it")
        name = "cpu_here" if self.device.type == "cpu" else "gpu_here"
        shape, dtype = self.checkpoint or cell.model.name, cell.costs.dtype
        model = self.model(cell)
        with tempfile.TemporaryDirectory(prefix="moe-offload-") as folder:
            path = Path(folder) / f"{name}.yaml"
            plan: dict[str, Any] = {"model": shape, "device": str(self.device), "threads": self.options.threads}
            cli.calibrate(cli.Options(out=path, seconds=SECONDS, **plan | {"dtype": dtype}))
            profile = read_profile(path)
        own = calibrate.Options(out=path, hardware=path, weights=self.options.weights, **plan)
        return calibrate.add_overheads(model, dict(cell.config.model), profile, name, own)


def run_cell(config: RunConfig, bench: Bench, grid: Grid) -> None:
    """Run one cell; what goes wrong is listed, and stops no other."""
    from real.run.session import on_device
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
    if bench.options.logs:
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
