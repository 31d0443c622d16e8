"""The files of an evaluation."""

from __future__ import annotations

from pathlib import Path

from real.evaluate.evaluation import Evaluation
from real.validation.writing import word, write_results
from sim.prices import HardwareProfile
from traces.calibrate.profile import write as write_profile
from traces.kit.whole import writable, write_whole


def write(found: Evaluation, page: str, out: Path) -> None:
    """The profile, a validation's files for each grid, and the page. UserError where they cannot be written."""
    with writable(f"out={out}"):
        out.mkdir(parents=True, exist_ok=True)
        if found.hardware is not None:
            HardwareProfile.from_dict(found.hardware)  # what is written can be read
            write_profile(out / f"{found.name}.yaml", found.hardware, "real evaluate")
        write_whole(out / "README.md", page)
    for grid, document in found.documents.items():
        write_results(document, out, file_of(grid, document["provenance"]["model"]["name"]))


def file_of(grid: str, model: str) -> str:
    """The name of a grid's files: the model's, and of the link's grid that, too."""
    return word(model if grid == "cells" else f"{model}_{grid}")
