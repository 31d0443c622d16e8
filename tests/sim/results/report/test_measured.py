"""Predicted against measured: the picture of a validation, in a report and beside the validation itself."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from real.validation.plot import draw
from real.validation.plot import main as redraw
from sim.cli import main
from sim.results import pictures
from tests.sim.results.report.readable import faults
from traces.kit.drawing import few_colours
from traces.kit.errors import UserError


def validation(cells: int = 6) -> dict[str, Any]:
    """As ``real validate`` writes it, of made-up figures; the last cell decodes nothing."""
    rows = []
    for i in range(cells):
        device = {"tpot_ms": 10.0 + 9 * i, "ttft_ms": 200.0 + 40 * i, "stall_ms_per_token": 5.0 + 8 * i}
        errors = {name: {"device": ms, "simulated": ms * (0.9 + 0.04 * i)} for name, ms in device.items()}
        if i == cells - 1:
            errors["tpot_ms"] = {"device": None, "simulated": None}
        errors["hit_complete"] = {"device": 0.3 + 0.1 * i, "simulated": 0.31 + 0.1 * i}
        policy, budget = {"name": ("lru", "gate_ahead")[i % 2]}, f"{25 * (1 + i // 2)}%"
        rows.append({"policy": policy, "budget": budget, "errors": errors})
    source = {"model": {"name": "tiny"}, "hardware": {"name": "here"}, "date": "2026-01-01"}
    return {"provenance": source, "cells": rows}


def test_it_can_be_read_and_says_what_it_leaves_out() -> None:
    figure = pictures.measured(validation())
    assert faults(figure) == []
    assert "1 of 6 not drawn" in figure.axes[0].get_title(loc="left")
    tpot = "TPOT: within 15 % in 5 of 5 cells, at worst 10 % off"
    assert tpot in " ".join(figure.axes[0].get_title(loc="left").split())


def test_what_was_measured_here_can_be_read() -> None:
    document = json.loads((Path(__file__).parents[4] / "real" / "results" / "cpu" / "tiny-moe.json").read_bytes())
    assert faults(pictures.measured(document)) == []


def test_both_axes_are_one(tmp_path: Path) -> None:
    """Square, with the same range and the same ticks, of which there are enough; and it is what ``real`` draws."""
    document = validation()
    figure = pictures.measured(document)
    FigureCanvasAgg(figure).draw()
    assert len(figure.axes) == 4
    for axes in figure.axes:
        box = axes.get_window_extent()
        assert box.width == pytest.approx(box.height, rel=1e-3)
        assert axes.get_xlim() == axes.get_ylim()
        assert list(axes.get_xticks()) == list(axes.get_yticks())
        assert 3 <= len(axes.get_xticks()) <= 7
    drawn = draw(document)
    assert drawn == few_colours(pictures.png(pictures.measured(document), 100))
    file = tmp_path / "it.json"
    file.write_text(json.dumps(document))
    assert redraw([str(file)]) == 0
    assert file.with_suffix(".png").read_bytes() == drawn
    with pytest.raises(UserError, match=r"no.json: "):
        redraw([str(tmp_path / "no.json")])
    file.write_text("{}")
    with pytest.raises(UserError, match="not a validation"):
        redraw([str(file)])


def test_nothing_to_compare_is_said() -> None:
    document = validation(1)
    for error in document["cells"][0]["errors"].values():
        error |= {"device": None, "simulated": None}
    with pytest.raises(pictures.EmptyPictureError, match="no cell has a figure both predicted and measured"):
        pictures.measured(document)


@pytest.mark.usefixtures("undrawn")
def test_a_report_holds_the_validations_of_its_folder(
    grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(grid, tmp_path / "copy")
    (copy / "checked").mkdir()
    (copy / "checked" / "tiny.json").write_text(json.dumps(validation()))
    (copy / "checked" / "other.json").write_text(json.dumps({"provenance": {}, "cells": [{}]}))
    (copy / "notes.json").write_text("{")
    assert main(["report", str(copy), "policy=lru"]) == 0
    html = (copy / "report.html").read_text()
    assert "measured on the device (checked/tiny.json)" in html
    assert "not drawn: measured checked/other.json: not a validation that this version reads" in capsys.readouterr().err


def test_titles_keep_clear_of_the_axes_above() -> None:
    """Square panels are as high as they are wide: rows that were less high ran into each other."""
    document = validation(12)
    document["cells"][0]["errors"]["stall_ms_per_token"]["device"] = 0.0  # said in two lines more
    figure = pictures.measured(document)
    FigureCanvasAgg(figure).draw()
    above, _, below, _ = figure.axes
    assert len(figure.axes) == 4
    assert below.get_tightbbox().y1 <= above.get_tightbbox().y0
