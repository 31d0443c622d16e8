"""What happened: the trace format, its reader and its writer."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from traces.describe.opened import Opened
    from traces.describe.opened import open_named as open  # noqa: A004 - traces.open(path) is what one looks for
    from traces.format.layout import DECODE, PREFILL, STEP_DTYPE, Request, by_descending_weight
    from traces.format.manifest import Manifest, Model, Prompts, Recorder
    from traces.format.reader import Trace, find_trace, open_trace
    from traces.kit.errors import TraceError, UserError
    from traces.kit.fields import FileEntry
    from traces.version import __version__
    from traces.writing.writer import TraceWriter

__all__ = [
    "DECODE",
    "PREFILL",
    "STEP_DTYPE",
    "FileEntry",
    "Manifest",
    "Model",
    "Opened",
    "Prompts",
    "Recorder",
    "Request",
    "Trace",
    "TraceError",
    "TraceWriter",
    "UserError",
    "__version__",
    "by_descending_weight",
    "find_trace",
    "open",
    "open_trace",
]
_WHERE = {
    "traces.describe.opened": ("Opened", "open"),
    "traces.format.layout": ("DECODE", "PREFILL", "STEP_DTYPE", "Request", "by_descending_weight"),
    "traces.format.manifest": ("Manifest", "Model", "Prompts", "Recorder"),
    "traces.format.reader": ("Trace", "find_trace", "open_trace"),
    "traces.kit.errors": ("TraceError", "UserError"),
    "traces.kit.fields": ("FileEntry",),
    "traces.version": ("__version__",),
    "traces.writing.writer": ("TraceWriter",),
}
"""Imported when they are asked for: a help page needs none of them, nor numpy."""


def __getattr__(name: str) -> Any:
    module = next((module for module, names in _WHERE.items() if name in names), None)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(module), "open_named" if name == "open" else name)


def __dir__() -> list[str]:
    return sorted(__all__)
