"""One job of a sweep, in whatever process the launcher puts it, and what it tells the process that began the sweep.

A job is one composed configuration: one cell, or several where an axis is a list. Whatever happens to a cell is left
as one small file in a folder that all processes see, so that it does not depend on what a launcher carries back.
"""

import json
import math
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sim.experiment.by_hydra import to_dict
from sim.experiment.cell import Inputs
from sim.experiment.compose import cells
from sim.experiment.config import RunConfig
from sim.experiment.overrides import value_word
from sim.experiment.run import run_config
from traces.kit.errors import UserError
from traces.kit.telling import in_one_line
from traces.kit.whole import write_whole


@dataclass(frozen=True, slots=True)
class Told:
    """What became of a cell."""

    job: int
    cell: int
    state: Literal["run", "read", "failed"]
    words: list[str]  # the cell as words of python -m sim run
    folder: str | None = None
    error: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Job:
    """What Hydra calls with every composed configuration; it can be pickled, and never raises for a cell."""

    out: str
    told: str
    parent: int
    """The process that began the sweep: a worker that is its child ends with it, even after ``kill -9``."""

    def __call__(self, composed: DictConfig) -> float | None:
        """Run the job's cells. Returns their mean TPOT in ms, for a sweeper that tunes; None if one has none."""
        _end_with(self.parent)
        job = HydraConfig.get().job.num
        words = [str(word) for word in HydraConfig.get().overrides.task]
        latencies: list[float | None] = []
        inputs = Inputs(keep=True)
        try:
            whole = to_dict(composed)
            lists = [key for key, value in whole.items() if isinstance(value, list)]
            plain = list(cells(whole))
        except UserError as error:
            self._tell(Told(job, 0, "failed", words, error=str(error)))
            return None
        for number, cell in enumerate(plain):
            began = time.monotonic()
            own = _words(words, {key: cell[key] for key in lists})
            tpot = None
            try:
                result = run_config(RunConfig.from_dict(cell), self.out, inputs=inputs)
            except UserError as error:
                told = Told(job, number, "failed", own, error=str(error))
            except Exception as error:  # a policy's own mistake, say: the others go on
                traceback.print_exc(file=sys.stderr)
                told = Told(job, number, "failed", own, error=in_one_line(error))
            else:
                told = Told(job, number, "read" if result.cached else "run", own, folder=result.folder.name)
                tpot = result.document["latency_ms"]["tpot"]
            latencies.append(tpot and float(tpot["mean"]))
            self._tell(replace(told, seconds=time.monotonic() - began))
        known = [latency for latency in latencies if latency is not None]
        return math.fsum(known) / len(known) if len(known) == len(latencies) else None

    def _tell(self, told: Told) -> None:
        path = Path(self.told) / f"{told.job:08d}-{told.cell:08d}.{told.state}.json"
        write_whole(path, json.dumps(asdict(told)), sync=False)


def heard(folder: Path) -> Iterator[Told]:
    """What the jobs have told until now, in the order of the grid."""
    for path in sorted(folder.glob("[0-9]*.json")):
        yield Told(**json.loads(path.read_text(encoding="utf-8")))


def tally(folder: Path) -> tuple[int, int]:
    """How many cells the jobs have told of until now, and how many of these failed. By names: a sweep may be large."""
    names = [path.name for path in folder.glob("[0-9]*.json")]
    return len(names), sum(name.endswith(".failed.json") for name in names)


@cache
def _end_with(parent: int) -> None:
    """End this process when it has lost its parent: nobody would hear it, and joblib's workers wait for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    if os.getppid() == parent:
        threading.Thread(target=watch, daemon=True).start()


def _words(words: list[str], listed: Mapping[str, Any]) -> list[str]:
    """The job's words, with the cell's own values in the place of lists."""
    rest = [word for word in words if word.partition("=")[0].lstrip("+") not in listed]
    return [*rest, *(_word(key, value) for key, value in listed.items())]


def _word(key: str, value: object) -> str:
    if isinstance(value, str):
        return value_word(key, value) if value else f"{key}=''"
    return f"{key}={'null' if value is None else value}"
