"""What is told while something runs: lines on stderr, and what others' errors say."""

import sys


def say(line: str) -> None:
    """A line on stderr, at once."""
    print(line, file=sys.stderr, flush=True)


def in_short(error: BaseException, *, kind: bool = False) -> str:
    """What an error says, in one line of 300 characters at most; ``kind``: and its type."""
    return " ".join((f"{type(error).__name__}: {error}" if kind else str(error)).split())[:300]
