"""At length, with counts of what became of the files: ``FUZZ_EXAMPLES=10000 python -m pytest tests/traces/fuzz``."""

import pytest

from tests.traces.fuzz import mutate


@pytest.fixture(autouse=True)
def counted(request: pytest.FixtureRequest) -> None:
    mutate.running = request.node.name


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for name, counts in mutate.outcomes.items() if mutate.EXAMPLES > mutate.SHORT else ():
        total = sum(counts.values())
        parts = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(counts.items()))
        terminalreporter.write_line(f"fuzz: {name}: {total:,} files, {parts}; slowest {mutate.slowest[name]:.2f} s")
