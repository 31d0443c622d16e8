"""What would happen. What a notebook wants is here by name; the rest of the package is its own affair.

``sim.run`` and ``sim.sweep`` run cells and read what was run, ``sim.compare`` says what may be concluded,
``sim.regret`` where the time goes, ``sim.bounds`` what nobody beats, ``sim.passes`` what is replayed;
``sim.policies()``, ``models()``, ``hardware()``, ``traces()`` and ``experiments()`` list what there is. ``sim.load``,
``load_requests`` and ``load_layers`` give finished runs as frames, ``sim.pictures`` draws them. A mistake is a
``sim.UserError`` of one line.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim import pictures
    from sim.api.cells import bounds, passes
    from sim.api.compared import Compared, compare
    from sim.api.lists import Listing, experiments, hardware, models, policies, traces
    from sim.api.regretted import Regret, regret
    from sim.api.runs import Run, Runs, run, sweep
    from sim.results.load import load, load_layers, load_requests, save
    from traces.kit.errors import UserError
    from traces.version import __version__

__all__ = [
    "Compared",
    "Listing",
    "Regret",
    "Run",
    "Runs",
    "UserError",
    "__version__",
    "bounds",
    "compare",
    "experiments",
    "hardware",
    "load",
    "load_layers",
    "load_requests",
    "models",
    "passes",
    "pictures",
    "policies",
    "regret",
    "run",
    "save",
    "sweep",
    "traces",
]
_WHERE = {
    "sim.api.cells": ("bounds", "passes"),
    "sim.api.compared": ("Compared", "compare"),
    "sim.api.lists": ("Listing", "experiments", "hardware", "models", "policies", "traces"),
    "sim.api.regretted": ("Regret", "regret"),
    "sim.api.runs": ("Run", "Runs", "run", "sweep"),
    "sim.results.load": ("load", "load_layers", "load_requests", "save"),
    "traces.kit.errors": ("UserError",),
    "traces.version": ("__version__",),
}
"""Imported when they are asked for: a command needs none of them."""


def __getattr__(name: str) -> Any:
    if name == "pictures":
        return import_module("sim.pictures")
    module = next((module for module, names in _WHERE.items() if name in names), None)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return sorted(__all__)
