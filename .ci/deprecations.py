"""A pytest plugin: what another package deprecates, by a warning or in its log, fails the test that meets it.

    PYTHONPATH=.ci python -m pytest -p deprecations ...

A user's own test run only shows such warnings (filterwarnings in pyproject.toml): they are ours to mend, in time.
"""

import logging
import re
from collections.abc import Generator
from typing import Any

import pytest

KINDS = ("DeprecationWarning", "PendingDeprecationWarning", "FutureWarning")
SAYS = re.compile(r"deprecat|(will|to) be removed|removed in ", re.IGNORECASE)
said: list[str] = []
"""What was logged since the present phase of the present test began."""


def pytest_configure(config: pytest.Config) -> None:
    """Errors once more: of filters, the last that fits counts. And transformers tells much in its log alone."""
    for kind in KINDS:
        config.addinivalue_line("filterwarnings", f"error::{kind}")
    plain = logging.Logger.warning

    def warning(self: logging.Logger, msg: object, *args: Any, **more: Any) -> None:
        # Here and not in a handler: a log that is quiet while a model loads still tells what is deprecated.
        if SAYS.search(str(msg)):
            said.append(f"{self.name}: {msg}")
        plain(self, msg, *args, **more)

    logging.Logger.warning = warning  # type: ignore[method-assign]


def _phase() -> Generator[None, object, object]:
    said.clear()
    outcome = yield
    if said:
        pytest.fail("; ".join(dict.fromkeys(said)), pytrace=False)
    return outcome


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, object, object]:
    """Fixtures load models."""
    return (yield from _phase())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """The test itself."""
    return (yield from _phase())
