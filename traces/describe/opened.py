"""``traces.open``: a trace that shows itself, and its requests as a frame."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from traces.format.reader import Trace, find_trace, open_trace
from traces.kit.shown import Shown

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console


@dataclass(frozen=True, eq=False, repr=False)
class Opened(Shown, Trace):
    """A trace; it shows itself as ``python -m traces inspect`` prints it."""

    def draw(self, console: Console) -> None:
        from traces.describe.inspect import tables
        from traces.describe.stats import describe

        console.print(*tables(self, describe(self)))

    @property
    def frame(self) -> pd.DataFrame:
        """A row per request: prompt_tokens, output_tokens, arrival_s, split, source."""
        import pandas as pd

        return pd.DataFrame([{field.name: getattr(it, field.name) for field in fields(it)} for it in self.requests])


def open_named(path: str | os.PathLike[str], verify: str = "full") -> Opened:
    """Open the trace in a folder, or the shipped ``sample``; ``verify`` as of :func:`traces.open_trace`. UserError."""
    trace = open_trace(find_trace(os.fspath(path)), verify)
    return Opened(**{field.name: getattr(trace, field.name) for field in fields(Trace) if field.init})
