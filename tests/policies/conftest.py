"""Policies behind entry points."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from policies import registry
from policies.lru import LRU

Plug = Callable[..., None]
Theirs = Callable[..., None]


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Iterator[Plug]:
    """``plug(*loaded)``: these are installed, as p0, p1, ..., and no others."""

    def install(*loaded: Any) -> None:
        points = [
            SimpleNamespace(name=f"p{i}", value=f"elsewhere:p{i}", load=lambda thing=thing: thing)
            for i, thing in enumerate(loaded)
        ]
        monkeypatch.setattr(registry, "entry_points", lambda group: points)
        registry._others.cache_clear()
        registry._catalogue.cache_clear()

    yield install
    monkeypatch.undo()
    registry._others.cache_clear()
    registry._catalogue.cache_clear()


@pytest.fixture
def theirs(plug: Plug) -> Theirs:
    """Install a policy "theirs" whose __init__ has these words behind the setup, and this body."""

    def install(words: str, body: str = "pass", base: type = LRU, **declarations: Any) -> None:
        code = f"def __init__(self, setup, {words}):\n    base.__init__(self, setup)\n    {body}\n"
        scope: dict[str, Any] = {"base": base, "Literal": Literal, "Any": Any}
        exec(code, scope)
        plug(type("Theirs", (base,), {"name": "theirs", "__init__": scope["__init__"], **declarations}))

    return install
