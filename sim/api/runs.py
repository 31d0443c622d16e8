"""``sim.run`` and ``sim.sweep``: the cells of the command line, from Python, and what one does with their results."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from sim.api.compared import Compared, compare
from sim.api.regretted import Regret, regret
from sim.api.words import Value, grid_words, run_words
from sim.experiment.cell import Inputs
from sim.experiment.compose import read_config
from sim.experiment.config import RunConfig
from sim.experiment.run import run_config
from sim.experiment.sweep.multirun import show_grid
from sim.experiment.sweep.plan import read_grid
from sim.results.compare.selection import among
from sim.results.load import load, load_layers, load_requests
from sim.results.side_by_side import side_by_side
from sim.results.table import show
from sim.results.timeline import write
from traces.kit.errors import UserError
from traces.kit.shown import Shown
from traces.kit.units import counted
from traces.kit.whole import whole, writable

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console


@dataclass(frozen=True, eq=False, repr=False)
class Run(Shown):
    """A finished run; it shows itself as ``python -m sim run`` prints it."""

    config: RunConfig
    document: Mapping[str, Any]
    """The content of its ``result.json``."""
    folder: Path
    """Where it lies: what the command line would have left, and would read."""
    cached: bool
    """Whether it was there already."""

    def draw(self, console: Console) -> None:
        show(self.document, console)

    @property
    def frame(self) -> pd.DataFrame:
        """Its row of :func:`sim.load`."""
        return _named(load(self.folder), self.folder)

    @property
    def requests(self) -> pd.DataFrame:
        """Its rows of :func:`sim.load_requests`."""
        return _named(load_requests(self.folder), self.folder)

    @property
    def layers(self) -> pd.DataFrame:
        """Its rows of :func:`sim.load_layers`."""
        return _named(load_layers(self.folder), self.folder)

    def compare(self, *others: Run, **options: Any) -> Compared:
        """Beside ``others`` of the same ``out=``; ``options``: of :func:`sim.compare`. UserError."""
        return Runs((self, *others)).compare(**options)

    def regret(self) -> Regret:
        """Where its time beyond the bound goes, and by which of its evictions. UserError where that is unknown."""
        return Runs((self,)).regret()

    def timeline(self, path: str | Path) -> Path:
        """Write what was when as a file that Perfetto opens; a run that kept none is run once more. UserError."""
        return Runs((self,)).timeline(path)


@dataclass(frozen=True, eq=False, repr=False)
class Runs(Shown, Sequence[Run]):
    """Finished runs, in the order of their grid; they show themselves as ``python -m sim run -m`` prints them."""

    runs: tuple[Run, ...]
    failed: tuple[str, ...] = ()
    """A line for each cell that could not be run."""

    @overload
    def __getitem__(self, at: int) -> Run: ...
    @overload
    def __getitem__(self, at: slice) -> Runs: ...
    def __getitem__(self, at: int | slice) -> Run | Runs:
        return Runs(self.runs[at]) if isinstance(at, slice) else self.runs[at]

    def __len__(self) -> int:
        return len(self.runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    def draw(self, console: Console) -> None:
        show_grid((run.document for run in self.runs), console)
        for line in self.failed:
            console.print(f"failed: {line}", style="red")

    @property
    def frame(self) -> pd.DataFrame:
        """Their rows of :func:`sim.load`, in its order."""
        return among(load(self._root()), [run.folder.name for run in self.runs])

    def compare(self, **options: Any) -> Compared:
        """These runs as :func:`sim.compare` does a folder, with its ``options``. UserError."""
        return compare(self._root(), only=[run.folder.name for run in self.runs], **options)

    def regret(self) -> Regret:
        """What these runs leave to be gained, as :func:`sim.regret` says of a folder. UserError."""
        return regret(self._root(), only=[run.folder.name for run in self.runs])

    def timeline(self, path: str | Path) -> Path:
        """Write what was when in each, one below the other, as a file that Perfetto opens. UserError.

        Those that kept no timeline are run once more, which the store keeps as well.
        """
        target = Path(path)
        if target.is_dir() or not target.name:
            raise UserError(f"timeline({str(path)!r}): a file is wanted")
        kept = [_kept(run).folder for run in self.runs]
        with writable(str(target)):
            target.parent.mkdir(parents=True, exist_ok=True)
            with whole(target) as part:
                write(part, side_by_side(kept))
        return target

    def _root(self) -> Path:
        roots = {run.folder.parent.resolve(): run.folder.parent for run in self.runs}
        if len(roots) != 1:
            where = ", ".join(map(str, roots.values())) or "none"
            raise UserError(f"runs of {where}: one folder of results is wanted; run them with the same out=")
        return next(iter(roots.values()))


def run(*words: str, out: str | Path = "outputs", **keys: Value) -> Run:
    """Run one cell, or read it if it was run before: ``sim.run(policy="fmoe", budget="8GB")``.

    ``keys``: those of ``python -m sim run``, by value; one that is no Python name as ``**{"hardware.gpus": 6}``, those
    of a group also as a mapping (``workload={"name": "online", "rate": 1}``). ``words``: the same as texts,
    ``"policy=fmoe"``. ``policy=`` may be a class, its parameters ``policy={"name": MyPolicy, "memory": 0.9}``: it is
    then known by its name in this process. ``out``: where results go. UserError for a mistake.
    """
    return _run(read_config(run_words(words, keys)), Path(out))


def sweep(*words: str, out: str | Path = "outputs", **keys: Value) -> Runs:
    """Run every combination of the values: ``sim.sweep(policy=["lru", "fmoe"], budget=["4GB", "8GB"])``.

    ``words`` and ``keys`` as of :func:`run`, with lists of values; ``experiment=`` brings a grid of its own. All cells
    are checked before the first is run; one that fails does not stop the others, is warned of, and stands in
    ``Runs.failed``. They run one after the other: launchers are of the command line. UserError for a mistake, and if
    no cell can be run.
    """
    grid = [config for grid in grid_words(words, keys) for config in read_grid(grid)]
    inputs, done, failed = Inputs(keep=True), list[Run](), list[str]()
    for config in grid:
        try:
            done.append(_run(config, Path(out), inputs))
        except UserError as error:
            failed.append(str(error))
    lines = list(dict.fromkeys(failed))
    if not done:
        more = f" (and {counted(len(lines) - 1, 'other mistake')})" if len(lines) > 1 else ""
        raise UserError(f"{lines[0]}{more}")
    for line in lines:
        warnings.warn(f"{counted(failed.count(line), 'cell')} failed: {line}", stacklevel=2)
    return Runs(tuple(done), tuple(failed))


def _run(config: RunConfig, out: Path, inputs: Inputs | None = None) -> Run:
    found = run_config(config, out, inputs=inputs)
    return Run(config, found.document, found.folder, found.cached)


def _kept(run: Run) -> Run:
    """The same run with its timeline."""
    if (run.folder / "timeline.json").is_file():
        return run
    return _run(replace(run.config, timeline=True), run.folder.parent)


def _named(frame: pd.DataFrame, folder: Path) -> pd.DataFrame:
    return frame.assign(folder=frame["folder"].map(lambda _: folder.name).astype("string"))
