"""Cells of a validation on a device: the model is loaded once for those that follow one another."""

import tempfile
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from real.calibrate import overheads
from real.run.session import on_device
from real.runtime.models import Where
from real.runtime.offloaded import Offloaded
from real.runtime.recorded import run_forced
from real.validation.compare import Logs, compare
from real.validation.ran import runtime_digest
from real.validation.verdict import agrees
from real.validation.writing import provenance
from real.words import read_profile
from sim.experiment.cell import Cell, make_cell, make_policy
from sim.experiment.config import RunConfig
from sim.results.label import label
from traces.calibrate import cli as device_alone
from traces.calibrate.machine import describe, now
from traces.kit.errors import UserError, check_choice
from traces.kit.telling import in_short, say
from traces.models.devices import device_of
from traces.models.shapes import DTYPES

SECONDS = 20


@dataclass
class Bench:
    """A device, the model that is on it, and what came of the cells. ``checkpoint``: where model= ships no weights."""

    where: Where
    weights: Literal["auto", "random"]
    checkpoint: str
    repeat: int = 1
    cells: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    logs: list[Logs] = field(default_factory=list)
    """Of each of the ``cells``."""
    cell: Cell | None = None
    """The last one that was run."""
    _key: tuple[str, str, int] | None = None
    _model: Offloaded | None = None

    def run(self, config: RunConfig) -> None:
        """Run one cell; what goes wrong is listed, and stops no other."""
        where = {"policy": label(config.policy), "budget": str(config.budget)}
        try:
            cell = make_cell(replace(config, bounds=False))
            model = self.model(cell)
            cell = on_device(cell, model)
            if cell.traffic is not None:
                last = cell.traffic.arrivals[-1].time_ns / 1e9
                say(f"{where['policy']} at {where['budget']}: the last request arrives after {last:.3g} s")
            row, logs = compare(cell, model, self.repeat)
        except UserError as error:
            self.failed.append(where | {"error": in_short(error)})
            say(f"error: {where['policy']} at {where['budget']}: {error}")
            return
        except Exception as error:  # a bug of ours, or a device that gave up: the other cells are still worth having
            traceback.print_exc()
            self.failed.append(where | {"error": in_short(error, kind=True)})
            return
        self.cell = cell
        self.cells.append(row)
        self.logs.append(logs)
        say(f"{where['policy']} at {where['budget']}: {_brief(row)}")

    def model(self, cell: Cell) -> Offloaded:
        """The cell's model. UserError where it cannot be had, or computes in no dtype of ours."""
        name, dtype = self.checkpoint or cell.model.name, cell.costs.dtype
        check_choice("model.dtype", dtype, tuple(DTYPES))
        key = (name, dtype, cell.setup.n_layers)
        if self._model is None or key != self._key:
            if self._model is not None:  # its memory first
                self._model.store.close()
            self._model = None
            self._model, self._key = self.where.open(name, dtype, self.weights, cell.setup.n_layers), key
            # The first request, unmeasured: what a device does once (its kernels, its memory) is in no cell.
            config = on_device(cell, self._model).config
            alone: dict[str, Any] = {
                "policy": {"name": "lru"},
                "workload": {"name": "closed_loop", "batch": 1},
                "kv": None,
            }
            small = make_cell(replace(config, **alone, limit=1, warmup=0, bounds=False))
            run_forced(small, self._model, make_policy(small))
        return self._model

    def source(self) -> dict[str, Any]:
        """Where the rows are from."""
        assert self.cell is not None
        about = (describe(device_of(self.where.device)), self.weights, self.checkpoint, self.repeat)
        return provenance(self.cell, *about, now(), runtime_digest(), self.where.exact)

    def measure_machine(self, configs: Sequence[RunConfig], threads: int) -> dict[str, Any]:
        """A profile of this device, of the shape that is run, with the runtime's overheads on synthetic routing."""
        say(f"no hardware= was given: measuring this machine for about {SECONDS} s, and the runtime on it")
        cell, device = first_cell(configs), device_of(self.where.device)
        name = "cpu_here" if device.type == "cpu" else "gpu_here"
        shape, model = self.checkpoint or cell.model.name, self.model(cell)
        with tempfile.TemporaryDirectory(prefix="moe-offload-") as folder:
            path = Path(folder) / f"{name}.yaml"
            plan: dict[str, Any] = {"model": shape, "device": str(device), "threads": threads}
            device_alone.calibrate(
                device_alone.Options(out=path, seconds=SECONDS, **plan | {"dtype": cell.costs.dtype})
            )
            profile = with_threads(read_profile(path))
        return overheads.measured(model, dict(cell.config.model), profile, name, shape, self.weights)


def with_threads(profile: Mapping[str, Any]) -> dict[str, Any]:
    """The profile of a machine whose host computes with torch's threads as they are set here, not with all cores."""
    return dict(profile) | {"host": dict(profile["host"]) | {"cpu_threads": torch.get_num_threads()}}


def first_cell(configs: Sequence[RunConfig]) -> Cell:
    """The first cell that can be made at all; its mistake where none can."""
    mistakes = []
    for config in configs:
        try:
            return make_cell(replace(config, bounds=False))
        except UserError as error:
            mistakes.append(error)
    raise mistakes[0]


def _brief(row: Mapping[str, Any]) -> str:
    tpot = row["errors"]["tpot_ms"]
    off = "no TPOT" if tpot["error"] is None else f"TPOT {tpot['device']:.3g} ms, off by {tpot['error']:+.1%}"
    return f"{off}, replay {'agrees' if agrees(row) else 'DIFFERS'}"
