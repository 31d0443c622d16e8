"""Policies behind entry points."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from policies import registry

Plug = Callable[..., None]


class Point:
    """An entry point."""

    def __init__(self, name: str, loaded: Any) -> None:
        self.name, self.value, self.loaded = name, f"elsewhere:{name}", loaded

    def load(self) -> Any:
        return self.loaded


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Iterator[Plug]:
    """``plug(*loaded)``: these are installed, as p0, p1, ..., and no others."""

    def install(*loaded: Any) -> None:
        monkeypatch.setattr(registry, "entry_points", lambda group: [Point(f"p{i}", x) for i, x in enumerate(loaded)])
        registry._catalogue.cache_clear()

    yield install
    monkeypatch.undo()
    registry._catalogue.cache_clear()
