"""Results on disk: one folder per cell, addressed by content, there whole or not at all."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from sim.core.accounts import HIT_KINDS, KINDS, PHASES
from sim.core.log import save
from sim.results.document import Outcome, read_document
from sim.results.label import label
from sim.results.serving.lanes import requests_as_lanes
from traces.kit.errors import UserError
from traces.kit.strict import dump_json
from traces.kit.whole import held, remove_abandoned, whole, writable


class Store:
    """The folder ``out=``: one folder per run, and one per set of bounds."""

    def __init__(self, root: Path) -> None:
        if root.exists() and not root.is_dir():
            raise UserError(f"out={root}: not a folder")
        self.root = root

    def folder(self, name: str) -> Path:
        """Where a cell is, or will be."""
        return self.root / name

    def read(self, folder: Path, file: str) -> dict[str, Any] | None:
        """A finished cell's document; None if it was never run. UserError if it cannot be read."""
        path = folder / file
        if not path.is_file():
            if folder.exists():
                raise UserError(f"{folder}: not a finished run, it has no {file}; remove it to run the cell again")
            return None
        return read_document(path)

    def once(self, folder: Path, file: str, make: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], bool]:
        """A cell's document, and whether it was there; if not, ``make`` has written it, in one process at a time.

        Without locks (see traces.kit.whole.held) a cell may be computed twice, with the same bytes.
        """
        found = self.read(folder, file)
        if found is not None:
            return found, True
        with ExitStack() as stack:
            with writable(f"out={self.root}"):
                self.root.mkdir(parents=True, exist_ok=True)
                stack.enter_context(held(self.root / f".turn-{folder.name}"))
            found = self.read(folder, file)  # another process may have been first
            return (make(), False) if found is None else (found, True)

    def write_json(self, folder: Path, file: str, content: Mapping[str, Any]) -> None:
        """Write a cell that is one document."""
        self.put(folder, lambda temp: _write_json(temp / file, content))

    def put(self, folder: Path, fill: Callable[[Path], None]) -> None:
        """Let ``fill`` make a folder's files; it is there whole or not at all. If another was first, its folder stays.

        UserError where it cannot be written: the disk is full, say.
        """
        with writable(f"out={self.root}: {folder.name}"):
            self.root.mkdir(parents=True, exist_ok=True)
            remove_abandoned(self.root)
            try:
                with whole(folder) as part:
                    part.mkdir()
                    fill(part)
            except OSError:
                if not folder.is_dir():
                    raise

    def write(self, folder: Path, result: Mapping[str, Any], outcome: Outcome, config: Mapping[str, Any]) -> None:
        """Write a run: result.json, requests.parquet, layers.parquet, config.yaml; if kept, log.npy, timeline.json."""

        def fill(temp: Path) -> None:
            from sim.results.parquet import write_table  # and PyArrow: what is only read, or is no result, needs none

            _write_json(temp / "result.json", result)
            nullable = {"prefill_end_ns": "Int64", "ttft_ns": "Int64", "tpot_ns": "Float64"}
            write_table(temp / "requests.parquet", request_rows(outcome), **nullable)
            write_table(temp / "layers.parquet", layer_rows(outcome))
            (temp / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
            if outcome.core.log:
                save(outcome.core.log, temp / "log.npy")
            if outcome.timeline is not None:
                more = () if outcome.serving is None else requests_as_lanes(outcome.serving, outcome.timeline)
                setup = outcome.core.setup
                outcome.timeline.save(temp / "timeline.json", "simulated", label(config["policy"]), setup, more)

        self.put(folder, fill)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(dump_json(content), encoding="utf-8")


def request_rows(outcome: Outcome) -> list[dict[str, Any]]:
    """One row per measured request, times in ns since the start of the run.

    Where requests arrive a row is an arrival: it is admitted when it arrives, and ``replays`` a recorded request.
    """
    rows = _timing_rows(outcome)
    if outcome.serving is not None:
        start, instances = outcome.serving.start or 0, outcome.serving.ledger.served
        for row in rows:
            its = instances[row["request"]]
            row |= {"replays": its.arrival.request, "priority": its.arrival.priority}
            row |= {"first_pass_ns": start + its.first_ns, "preemptions": its.preemptions}
    return rows


def _timing_rows(outcome: Outcome) -> list[dict[str, Any]]:
    return [
        {
            "request": request,
            "admitted_ns": t.admitted,
            "prefill_end_ns": t.prefill_end,
            "end_ns": t.end,
            "prefill_rows": t.prefill_rows,
            "decode_steps": t.decode_steps,
            "ttft_ns": t.ttft_ns,
            "tpot_ns": t.tpot_ns,
        }
        for request, t in outcome.timings.requests.items()
    ]


def layer_rows(outcome: Outcome) -> list[dict[str, Any]]:
    """One row per phase and layer: hits over lookups, and stalls by cause in ns.

    Where requests arrive, lookups are by whose rows chose the expert, and those of both are ``mixed``; stalls are by
    the kind of pass.
    """
    accounts, kinds = outcome.accounts, PHASES if outcome.serving is None else KINDS
    return [
        {
            "phase": phase,
            "layer": layer,
            **dict(zip(HIT_KINDS, row, strict=True)),
            **{f"stall_{name}_ns": ns for name, ns in zip(accounts.causes, accounts.stall_ns[i][layer], strict=False)},
        }
        for i, phase in enumerate(kinds)
        for layer, row in enumerate(accounts.hits[i])
    ]
