"""Where a trace is while it is being made: such a folder is no trace yet."""

import os
from pathlib import Path

from traces.format.layout import MANIFEST_FILE
from traces.kit.whole import JOURNAL, is_partial

DATA = "unfinished"
"""Of a recording that outlives its process: the folder of its files, in the hidden one that holds its journal."""


def is_unfinished(folder: Path) -> bool:
    """Say whether ``folder`` is where a trace is being made, or was until its process was killed."""
    place = folder.absolute()
    if (place.name == DATA and is_partial(place.parent)) or os.path.lexists(place / JOURNAL):
        return True
    return is_partial(place) and not os.path.lexists(place / MANIFEST_FILE)
