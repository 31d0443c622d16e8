"""A small grid of the shipped sample: two lossless policies and a lossy one, two budgets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import sim
from sim.cli import main
from sim.experiment.run import run_config
from sim.experiment.sweep.plan import read_grid
from sim.results.compare import Comparison, compare
from sim.results.report import draw


@pytest.fixture(scope="session")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "grid"
    for config in read_grid(["policy=lru,gate_ahead,swapmoe", "budget=2GB,6GB", "limit=3"]):
        run_config(config, out)
    return out


@pytest.fixture(scope="session")
def runs(grid: Path) -> pd.DataFrame:
    return sim.load(grid)


@pytest.fixture(scope="session")
def layers(grid: Path) -> pd.DataFrame:
    return sim.load_layers(grid)


@pytest.fixture(scope="session")
def compared(grid: Path) -> Comparison:
    return compare(grid)


@pytest.fixture(scope="session")
def html(grid: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    target = tmp_path_factory.mktemp("page") / "new" / "page.html"
    assert main(["report", str(grid), f"out={target}"]) == 0
    assert sorted(file.name for file in target.parent.iterdir()) == ["page.csv", "page.html"]
    return target.read_text(encoding="utf-8")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    draw_alone(monkeypatch, "measured")


def draw_alone(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Pictures take seconds: of those that a test is not about, a report says that they were not asked for."""
    real = draw._draw

    def drawn(name: str, caption: str, make: Callable[[], Any]) -> draw.Drawn:
        if name.startswith(names):
            return real(name, caption, make)
        return draw.Drawn(name, caption, (), "not asked for")

    monkeypatch.setattr(draw, "_draw", drawn)
