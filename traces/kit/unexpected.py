"""An error that is nobody's slip of the keyboard, in one line."""

import traceback
from pathlib import Path


def in_one_line(error: BaseException) -> str:
    """``KeyError: 5 (my_policy.py, line 41)``: what, and the place that raised it, from below SimPy's wrapping."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(f"{type(error).__name__}: {error}".split())
    frames = traceback.extract_tb(error.__traceback__)
    return f"{text} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else text
