"""The document of a validation, and its files: there whole, or as they were."""

import hashlib
import io
import json
import re
import sys
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from real.validation.compare import Logs
from real.validation.verdict import criteria, markdown, summary, worst_first
from sim.experiment.cell import Cell
from sim.experiment.provenance import measured_requests
from sim.experiment.served import resolved
from sim.prices import figures
from sim.results.label import label
from traces.kit.strict import dump_json
from traces.kit.whole import writable, write_whole

SCHEMA = 1


def document_of(
    cells: Sequence[Mapping[str, Any]], failed: Sequence[Mapping[str, Any]], about: Mapping[str, Any]
) -> dict[str, Any]:
    """All that is known of a grid: where it was run (:func:`provenance`), what came of it, the worst cell first."""
    rows = worst_first(cells)
    return {
        "schema": SCHEMA,
        "provenance": about,
        "summary": summary(rows),
        "criteria": criteria(rows, own=about["hardware"]["of_this_device"]),
        "cells": rows,
        "failed": list(failed),
    }


def provenance(
    cell: Cell,
    device: Mapping[str, str],
    weights: str,
    checkpoint: str,
    repeat: int,
    date: str,
    code: str,
    exact: bool = True,
) -> dict[str, Any]:
    """Device, versions, date, profile, trace, model and code; what a cell has of its own stands with the cell.

    ``cell``: any of those that were run. ``device``: as traces.calibrate.machine.describe gives it. ``code``: of the
    runtime.
    """
    manifest, hardware = cell.trace.manifest, cell.config.hardware
    profile = cell.hardware
    measured = hardware.get("measured") or {}
    return {
        "date": date,
        "device": dict(device),
        "hardware": {
            "name": profile.name,
            "provenance": profile.provenance,
            "overheads": profile.overheads,
            "of_this_device": measured.get("machine", {}).get("device") == device["device"],
            "sha256": hashlib.sha256(json.dumps(figures(hardware), sort_keys=True, default=str).encode()).hexdigest(),
            **{key: hardware[key] for key in ("gpu", "link", "host", "software")},
            "runtime": hardware.get("runtime"),
            "measured": {key: measured[key] for key in ("date", "copies", "machine") if key in measured} or None,
        },
        "trace": {
            "name": cell.config.trace if not Path(cell.config.trace).is_absolute() else Path(cell.config.trace).name,
            "sha256": cell.trace.sha256,
            "recording": manifest.recording,
            **({"modelled": dict(manifest.modelled)} if manifest.modelled else {}),
            "routing_from": manifest.model.name,
        },
        "model": {
            "name": cell.model.name,
            "dtype": cell.costs.dtype,
            "weights": weights,
            "expert_bytes": cell.setup.expert_bytes[0],
            "checkpoint": Path(checkpoint).name or None,
        },
        "measured_requests": measured_requests(cell),
        "repeat": repeat,
        "before": "one request of the trace under lru, not measured",
        **resolved(cell.config, cell.traffic, cell.trace, (*cell.selection.warmup, *cell.selection.measured)),
        "chunks": cell.setup.chunks,
        "seed": cell.config.seed,
        "exact": exact,
        "code": code,
    }


def write_results(document: Mapping[str, Any], folder: Path, name: str = "") -> None:
    """Write NAME.json, NAME.md and NAME.png into the folder. UserError where it cannot be."""
    name = name or word(document["provenance"]["model"]["name"])
    files = {
        f"{name}.json": dump_json(document).encode(),
        f"{name}.md": (markdown(document) + f"\n![predicted against measured]({name}.png)\n").encode(),
    }
    try:
        from real.validation.plot import draw

        files[f"{name}.png"] = draw(document)
    except ImportError:
        sys.stderr.write("no plot: matplotlib is not installed\n")
    with writable(f"out={folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in files.items():
            write_whole(folder / file, content)


def write_logs(folder: Path, name: str, row: Mapping[str, Any], logs: Logs) -> None:
    """Write both logs of a cell, for ``python -m real diff``. UserError where they cannot be."""
    served = f"-{row['serving']['arrivals']}" if "serving" in row else ""
    inner = folder / "logs" / word(f"{name}-{label(row['policy'])}-{row['budget']}{served}")
    with writable(f"out={folder}"):
        inner.mkdir(parents=True, exist_ok=True)
        for side, log in logs.items():
            stream = io.BytesIO()
            np.save(stream, np.frombuffer(array("q", log), dtype=np.int64), allow_pickle=False)
            write_whole(inner / f"{side}.npy", stream.getvalue())


def word(text: str) -> str:
    """A text as the name of a file."""
    return re.sub(r"[^\w.-]+", "_", text).strip("._") or "unnamed"
