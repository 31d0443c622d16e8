"""How all tests that draw their examples do so.

By default every machine and every run draws the same examples (derandomized, without a database), so that a change
is judged by what it changes; and no example has a deadline, which a busy machine would miss. To look for what these do
not find, ``--hypothesis-profile=search`` draws other ones each time, and ten times as many where a test does not say.
"""

import gc
import os
import signal
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Else each worker, and each command that a test starts, would compile all of the project anew.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A shell without job control has what it starts in the background ignore Ctrl-C, and so would the commands under test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tables are as wide as it says; pytest-xdist gives it to its workers.
os.environ.pop("COLUMNS", None)

settings.register_profile("same", deadline=None, derandomize=True, database=None)
settings.register_profile("search", deadline=None, derandomize=False, max_examples=1000)  # Hypothesis draws alike in CI
settings.load_profile("same")


@pytest.fixture(scope="module", autouse=True)
def without_garbage() -> None:
    """Let the collector of garbage not look at thousands of tests again and again, which are there until the end."""
    if not gc.get_freeze_count():  # at first, and when a test has let go what was frozen
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def without_sync() -> Iterator[None]:
    """Let no test wait for the disk that is not about the disk: nothing here needs to survive a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield
