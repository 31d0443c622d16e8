"""One job of a sweep, in whatever process the launcher puts it, and what it tells the process that began the sweep.

A job is one composed configuration: one cell, or several where an axis is a list. Whatever happens to a cell is left
as one small file in a folder that all processes see, so that it does not depend on what a launcher carries back.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sim.axes import cells
from sim.config import RunConfig, to_dict, value_word
from sim.inputs import Inputs
from sim.run import run_config
from traces.errors import UserError

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Told:
    """What became of a cell."""

    job: int
    cell: int
    state: Literal["run", "read", "failed"]
    words: list[str]
    """The cell as words of ``python -m sim run``."""
    folder: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """What Hydra calls with every composed configuration; it can be pickled, and never raises for a cell."""

    out: str
    told: str

    def __call__(self, composed: DictConfig) -> float | None:
        """Run the job's cells. Returns their mean TPOT in ms, for a sweeper that tunes; None if one has none."""
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
            own = _words(words, {key: cell[key] for key in lists})
            try:
                result = run_config(RunConfig.from_dict(cell), self.out, inputs=inputs)
            except UserError as error:
                self._tell(Told(job, number, "failed", own, error=str(error)))
                latencies.append(None)
            except Exception as error:  # a policy's own mistake, say: the others go on
                traceback.print_exc(file=sys.stderr)
                self._tell(Told(job, number, "failed", own, error=_where(error)))
                latencies.append(None)
            else:
                self._tell(Told(job, number, "read" if result.cached else "run", own, folder=result.folder.name))
                latency = result.document["latency_ms"]["tpot"]
                latencies.append(latency and float(latency["mean"]))
        known = [latency for latency in latencies if latency is not None]
        return math.fsum(known) / len(known) if len(known) == len(latencies) else None

    def _tell(self, told: Told) -> None:
        handle, name = tempfile.mkstemp(prefix=".new-", dir=self.told)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(asdict(told), stream)
        Path(name).rename(Path(self.told) / f"{told.job:08d}-{told.cell:08d}.json")


def heard(folder: Path) -> Iterator[Told]:
    """What the jobs have told until now, in the order of the grid."""
    for path in sorted(folder.glob("[0-9]*.json")):
        yield Told(**json.loads(path.read_text(encoding="utf-8")))


def one_thread() -> None:
    """Linear algebra on one thread, here (if numpy is not yet loaded) and in the processes that begin from here."""
    for name in THREADS:
        os.environ[name] = "1"


def _words(words: list[str], listed: Mapping[str, Any]) -> list[str]:
    """The job's words, with the cell's own values in the place of lists."""
    rest = [word for word in words if word.partition("=")[0].lstrip("+") not in listed]
    return [*rest, *(f"{key}={_value(value)}" for key, value in listed.items())]


def _value(value: object) -> str:
    if value is None:
        return "null"
    return value_word("", value).removeprefix("=") if isinstance(value, str) else str(value)


def _where(error: Exception) -> str:
    """An unexpected error in one line, with the place that raised it."""
    with suppress(IndexError):
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f" ({Path(last.filename).name}, line {last.lineno})"
        return " ".join(f"{type(error).__name__}: {error}".split()) + place
    return type(error).__name__
