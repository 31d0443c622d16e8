"""The one family of errors that are the user's to mend.

Every command catches :class:`UserError`, prints its one line on stderr and exits with status 2.
Anything else is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable


class UserError(Exception):
    """Something the user gave cannot be used. The message names the value, the key and what is allowed."""


class TraceError(UserError):
    """A trace, or a file to be imported as one, breaks the format."""


class Interrupted(KeyboardInterrupt):
    """Somebody, or the machine, wants a command to end; the message is its last line. ``status``: 128 + the signal."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def one_of(allowed: Iterable[object]) -> str:
    """Render the allowed set for an error message."""
    return ", ".join(str(item) for item in allowed)
