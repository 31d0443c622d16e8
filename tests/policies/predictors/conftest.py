"""A trace to fit on, and what was fitted on it."""

import pytest

from policies.predictors.saved import Fitted
from tests.policies.predictors.traces import draw, fit, write
from traces import Trace


@pytest.fixture(scope="session")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    return write(tmp_path_factory.mktemp("fit") / "trace", draw())


@pytest.fixture(scope="session")
def fitted(trace: Trace) -> Fitted:
    """Its file is ``fitted.safetensors`` beside the trace."""
    return fit(trace, trace.path.parent / "fitted.safetensors")
