"""Files of strangers, opened: a regular file, whatever its name says."""

import stat
from pathlib import Path
from typing import BinaryIO

from traces.kit.errors import TraceError


def open_source(source: Path, kind: str) -> BinaryIO:
    """Open a regular file; a pipe or a device could hang or never end. Links are followed: the user named them."""
    try:
        if not stat.S_ISREG(source.stat().st_mode):
            raise TraceError(f"{source}: not a regular file; allowed: a readable {kind} file")
        return source.open("rb")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TraceError(f"{source}: {reason}; allowed: a readable {kind} file") from None
