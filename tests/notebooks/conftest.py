"""The scripts that lie beside the notebooks, as modules."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


def _beside(name: str) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(NOTEBOOKS)
        return importlib.import_module(name)


@pytest.fixture(scope="module")
def execute() -> ModuleType:
    return _beside("execute")


@pytest.fixture(scope="module")
def stale() -> ModuleType:
    return _beside("stale")
