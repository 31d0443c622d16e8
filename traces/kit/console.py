"""Where tables are printed. Rich is imported when one is: a server may lack it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def stdout_console(width: int | None = 120) -> Console:
    """As wide as the terminal, or as COLUMNS says, else ``width`` (None: as Rich finds). Brackets are no markup."""
    from rich.console import Console

    own = sys.stdout.isatty() or os.environ.get("COLUMNS", "").lstrip("0").isdecimal()  # Rich reads both
    return Console(width=None if own else width, highlight=False, markup=False, emoji=False)
