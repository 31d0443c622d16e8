"""Predicted against measured: the picture of a validation, in a report and beside the validation itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from readable import faults

from sim import pictures
from sim.cli import main


def validation(cells: int = 6) -> dict[str, Any]:
    """As ``real validate`` writes it, of made-up figures; the last cell decodes nothing."""
    rows = []
    for i in range(cells):
        device = {"tpot_ms": 10.0 + 9 * i, "ttft_ms": 200.0 + 40 * i, "stall_ms_per_token": 5.0 + 8 * i}
        errors = {name: {"device": ms, "simulated": ms * (0.9 + 0.04 * i)} for name, ms in device.items()}
        if i == cells - 1:
            errors["tpot_ms"] = {"device": None, "simulated": None}
        errors["hit_complete"] = {"device": 0.3 + 0.1 * i, "simulated": 0.31 + 0.1 * i}
        rows.append(
            {"policy": {"name": ("lru", "gate_ahead")[i % 2]}, "budget": f"{25 * (1 + i // 2)}%", "errors": errors}
        )
    source = {"model": {"name": "tiny"}, "hardware": {"name": "here"}, "date": "2026-01-01"}
    return {"provenance": source, "cells": rows}


def test_it_can_be_read_and_says_what_it_leaves_out() -> None:
    figure = pictures.measured(validation())
    assert faults(figure) == []
    assert "1 of 6 cells not drawn" in figure.axes[0].get_title()


def test_a_report_holds_the_validations_of_its_folder(
    grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(grid, copy)
    (copy / "checked").mkdir()
    (copy / "checked" / "tiny.json").write_text(json.dumps(validation()))
    (copy / "checked" / "other.json").write_text(json.dumps({"provenance": {}, "cells": [{}]}))
    (copy / "notes.json").write_text("{")
    assert main(["report", str(copy), "policy=lru"]) == 0
    html = (copy / "report.html").read_text()
    assert "measured on the device (checked/tiny.json)" in html
    assert "not drawn: measured checked/other.json: not a validation that this version reads" in capsys.readouterr().err
