"""What would happen. ``sim.load``, ``sim.load_requests`` and ``sim.load_layers`` give finished runs as frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim.results.load import load, load_layers, load_requests, save
    from traces.version import __version__

__all__ = ["__version__", "load", "load_layers", "load_requests", "save"]


def __getattr__(name: str) -> Any:
    """The tables, imported when they are asked for: a run needs none of them."""
    if name == "__version__":
        from traces.version import __version__

        return __version__
    if name in __all__:
        from sim.results import load as runs

        return getattr(runs, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
