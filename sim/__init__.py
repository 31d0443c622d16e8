"""What would happen. ``sim.load`` and ``sim.load_requests`` give finished runs as pandas frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim.runs import load, load_requests, save

__all__ = ["load", "load_requests", "save"]


def __getattr__(name: str) -> Any:
    """The tables, imported when they are asked for: a run needs none of them."""
    if name in __all__:
        from sim import runs

        return getattr(runs, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
