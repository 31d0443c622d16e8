"""Scripts that are in no package."""

from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


def script_of(path: str) -> ModuleType:
    """A file of the project as a module; what lies beside it is found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend((ROOT / path).parent)
        return import_module(Path(path).stem)
