"""Tests of the runtime: tiny models, policies and machines are those of the other folders' tests."""

import sys
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from tests.traces.conftest import family

if None in map(find_spec, ("torch", "transformers")):
    collect_ignore_glob = ["*"]  # the runtime needs the extra 'hf'


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Tiny matrices: a second thread of torch only waits. The machine's own threads take turns quickly."""
    import torch

    from real.runtime.behind import SWITCH_S

    threads, interval = torch.get_num_threads(), sys.getswitchinterval()
    torch.set_num_threads(1)
    sys.setswitchinterval(SWITCH_S)
    yield
    torch.set_num_threads(threads)
    sys.setswitchinterval(interval)


__all__ = ["family"]
