"""What shows itself: in a terminal and on a notebook's page as the table that the command line prints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 120
"""Of the tables, in columns, as where the command line does not know its terminal's."""
PAGE = '<pre style="white-space:pre;overflow-x:auto;line-height:normal;font-family:monospace">{code}</pre>'


class Shown(ABC):
    """``draw`` prints it; the rest follows."""

    @abstractmethod
    def draw(self, console: Console) -> None:
        """Print it."""

    def __str__(self) -> str:
        file = StringIO()
        self.draw(_console(file))
        return "\n".join(line.rstrip() for line in file.getvalue().rstrip().split("\n"))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        console = _console(StringIO(), record=True)
        self.draw(console)
        return console.export_html(code_format=PAGE, inline_styles=True)


def _console(file: StringIO, *, record: bool = False) -> Console:
    from rich.console import Console

    return Console(
        file=file,
        record=record,
        width=WIDTH,
        color_system="truecolor" if record else None,
        force_terminal=record,
        force_jupyter=False,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
        _environ={},
    )
