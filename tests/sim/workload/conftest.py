"""Traces on disk that differ from some moment on: see tests/sim/workload/causal.py."""

from collections.abc import Callable

import pytest

from tests.sim.workload.causal import Recorded, maker


@pytest.fixture(scope="package")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Recorded]:
    return maker(tmp_path_factory)
