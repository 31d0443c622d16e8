"""What happened: the trace format, its reader and its writer."""

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
