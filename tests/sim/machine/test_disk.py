"""A disk below host memory: the engine against the textbook machine, bit for bit, and the laws of the tier."""

from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.api import Policy
from policies.lru import LRU
from sim.core.tiers import HostTier
from tests.sim.machine.against import agree
from tests.sim.machine.cases import FlatDisk
from tests.sim.machine.disk_cases import tiered_cases
from tests.sim.machine.restless import EXAMPLES, Bypass, Case, Lossy, Restless, Unruly
from tests.sim.machine.textbook_disk import TextbookDisk

Tiered = tuple[Case, HostTier, FlatDisk]


def compare(tiered: Tiered, kind: type[Policy], **parameters: object) -> None:
    case, tier, disk = tiered
    agree(TextbookDisk, case, kind, {"tier": tier, "disk": disk}, **parameters)


@settings(EXAMPLES, max_examples=60)
@given(tiered_cases())
def test_lru_and_bypass(tiered: Tiered) -> None:
    compare(tiered, LRU, scope="layer" if tiered[0].by_layer else "global")
    compare(tiered, Bypass)


@pytest.mark.parametrize("kind", [Restless, Unruly, Lossy])
@settings(EXAMPLES, max_examples=40)
@given(tiered=tiered_cases(), eagerness=st.integers(0, 4))
def test_restless(kind: type[Restless], tiered: Tiered, eagerness: int) -> None:
    compare(tiered, kind, by_layer=tiered[0].by_layer, eagerness=eagerness)
