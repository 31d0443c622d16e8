"""What happened: the trace format, its reader and its writer."""

from traces.errors import TraceError, UserError
from traces.fields import FileEntry
from traces.format import DECODE, PREFILL, STEP_DTYPE, Request, by_descending_weight
from traces.manifest import Manifest, Model, Prompts, Recorder
from traces.reader import Trace, open_trace
from traces.version import __version__
from traces.writer import TraceWriter

__all__ = [
    "DECODE",
    "PREFILL",
    "STEP_DTYPE",
    "FileEntry",
    "Manifest",
    "Model",
    "Prompts",
    "Recorder",
    "Request",
    "Trace",
    "TraceError",
    "TraceWriter",
    "UserError",
    "__version__",
    "by_descending_weight",
    "open_trace",
]
