"""The one family of errors that are the user's to mend.

Every command catches :class:`UserError`, prints its one line on stderr and exits with status 2.
Anything else is a bug of ours and keeps its traceback.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class UserError(Exception):
    """Something the user gave cannot be used. The message names the value, the key and what is allowed."""


class TraceError(UserError):
    """A trace, or a file to be imported as one, breaks the format."""


class Interrupted(KeyboardInterrupt):
    """Somebody, or the machine, wants a command to end; the message is its last line. ``status``: 128 + the signal."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message, status)  # both: SimPy makes an exception that reaches it anew, of its arguments
        self.status = status

    def __str__(self) -> str:
        return str(self.args[0])


def one_line(text: object) -> str:
    """A message with its line ends, and whatever else a terminal would obey, written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def one_of(allowed: Iterable[object]) -> str:
    return ", ".join(str(item) for item in allowed)


def allowing(value: object, allowed: Iterable[object]) -> str:
    """Render the allowed set behind what was given: "allowed: X, Y; did you mean X?"."""
    listed = list(allowed)
    return f"allowed: {one_of(listed)}{meant(value, listed)}"


def meant(value: object, allowed: Iterable[object]) -> str:
    """Return "; did you mean X?" where ``value`` is close to one of ``allowed``, else nothing.

    To be put behind the allowed set: capitals count for nothing, nor does it matter whether words are joined by
    "-", "_" or "." ("Belady-Bypass": belady_bypass). What only one of them begins with is close to it, too.
    """
    plain = {_plain(item): str(item) for item in reversed(list(allowed))}
    begun = [item for item in plain if len(_plain(value)) > 2 and item.startswith(_plain(value))]
    found = begun if len(begun) == 1 else get_close_matches(_plain(value), plain, n=1, cutoff=0.65)
    return f"; did you mean {plain[found[0]]}?" if found else ""


def check_choice(key: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise UserError(f"{key}={brief(value)}: {allowing(value, allowed)}")


def check_range(key: str, value: float, low: float, high: float = float("inf")) -> None:
    """UserError unless low <= value <= high (NaN is refused too)."""
    if not low <= value <= high:
        allowed = f"at least {low:g}" if high == float("inf") else f"{low:.12g} to {high:.12g}"
        raise UserError(f"{key}={brief(f'{value:.12g}')}: allowed: {allowed}")


def brief(value: str) -> str:
    """What somebody typed, for an error: one line, never long."""
    text = one_line(value[:61])
    return text if len(text) <= 60 else f"{text[:60]}..."


def _plain(word: object) -> str:
    return str(word)[:200].lower().replace("-", "_").replace(".", "_")


def shown(value: object, limit: int = 80) -> str:
    """Render any value for an error message: one line, never long."""
    text = ascii(value[: limit + 1]) if isinstance(value, str) else " ".join(str(value)[: 4 * limit].split())
    return text if len(text) <= limit else f"{text[:limit]}..."


def refusal(file: str, field: str, value: object, allowed: str) -> TraceError:
    """Build the one-line error of the format: the file, the field, its value and what is allowed."""
    if not field.isprintable():
        # A field can be a key of somebody's JSON.
        field = shown(field)
    return TraceError(f"{file}: {field} is {shown(value)}; allowed: {allowed}")
