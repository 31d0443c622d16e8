"""The document of a validation, and its files: there whole, or as they were."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import real
from real.validation.verdict import label, markdown, summary, worst_first
from sim.replay import RecordingCore
from sim.results import measured_requests
from traces.calibrate.machine import describe
from traces.errors import UserError

if TYPE_CHECKING:
    from real.validate import Bench, Grid, Options

SCHEMA = 1


def document_of(grid: Grid, bench: Bench) -> dict[str, Any]:
    """All that is known of a grid: where it was run, what came of it, the worst cell first."""
    assert bench.cell is not None
    rows = worst_first(grid.cells)
    return {
        "schema": SCHEMA,
        "provenance": provenance(bench),
        "summary": summary(rows),
        "cells": rows,
        "failed": grid.failed,
    }


def provenance(bench: Bench) -> dict[str, Any]:
    """Device, versions, date, profile, trace, model and code; what a cell has of its own stands with the cell."""
    cell, device = bench.cell, describe(bench.device)
    assert cell is not None
    manifest, hardware = cell.trace.manifest, cell.config.hardware
    profile = cell.hardware
    measured = hardware.get("measured") or {}
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": device,
        "hardware": {
            "name": profile.name,
            "provenance": profile.provenance,
            "overheads": profile.overheads,
            "of_this_device": measured.get("machine", {}).get("device") == device["device"],
            "sha256": hashlib.sha256(json.dumps(hardware, sort_keys=True, default=str).encode()).hexdigest(),
            **{key: hardware[key] for key in ("gpu", "link", "host", "software")},
            "runtime": hardware.get("runtime"),
            "measured": {key: measured[key] for key in ("date", "copies", "machine") if key in measured} or None,
        },
        "trace": {
            "name": cell.config.trace if not Path(cell.config.trace).is_absolute() else Path(cell.config.trace).name,
            "sha256": cell.trace.sha256,
            "recording": manifest.recording,
            "routing_from": manifest.model.name,
        },
        "model": {
            "name": cell.model.name,
            "dtype": cell.costs.dtype,
            "weights": bench.options.weights,
            "expert_bytes": cell.setup.expert_bytes[0],
            "checkpoint": Path(bench.checkpoint).name or None,
        },
        "measured_requests": measured_requests(cell),
        "repeat": bench.options.repeat,
        "before": "one request of the trace under lru, not measured",
        "workload": dict(cell.config.workload),
        "chunks": cell.setup.chunks,
        "seed": cell.config.seed,
        "code": runtime_digest(),
    }


def runtime_digest() -> str:
    """Hash of the runtime's own files; the simulator's and the policy's stand with each cell."""
    digest = hashlib.sha256()
    for path in sorted(Path(str(real.__file__)).parent.glob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)} ".encode() + content)
    return digest.hexdigest()[:16]


def write_results(document: Mapping[str, Any], grid: Grid, options: Options) -> Path:
    """Write NAME.json, NAME.md, NAME.png and, if kept, the logs; returns the folder. UserError where it cannot be."""
    source = document["provenance"]
    folder = Path(options.out) if options.out else Path("real") / "results" / _word(source["hardware"]["name"])
    name = options.name or _word(source["model"]["name"])
    files = {
        f"{name}.json": (json.dumps(document, indent=1, allow_nan=False) + "\n").encode(),
        f"{name}.md": (markdown(document) + f"\n![predicted against measured]({name}.png)\n").encode(),
    }
    try:
        from real.validation.plot import draw

        files[f"{name}.png"] = draw(document)
    except ImportError:
        sys.stderr.write("no plot: matplotlib is not installed\n")
    try:
        for row, logs in grid.logs:
            inner = folder / "logs" / _word(f"{name}-{label(row['policy'])}-{row['budget']}")
            inner.mkdir(parents=True, exist_ok=True)
            for side in ("device", "simulated"):
                _place(inner / f"{side}.npy", _npy(getattr(logs, side)))
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in files.items():
            _place(folder / file, content)
    except OSError as error:
        raise UserError(f"out={folder}: cannot be written ({error.strerror}); allowed: a folder that can") from None
    return folder


def _place(path: Path, content: bytes) -> None:
    """The file whole, or as it was."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _npy(core: RecordingCore) -> bytes:
    import io

    stream = io.BytesIO()
    np.save(stream, np.frombuffer(core.log, dtype=np.int64), allow_pickle=False)
    return stream.getvalue()


def _word(text: str) -> str:
    """A text as the name of a file."""
    return re.sub(r"[^\w.-]+", "_", text).strip("._") or "unnamed"
