"""The vector of residents; that it says what single questions say, tests/sim/machine/restless.py asks at every fact."""

import numpy as np
import pytest

from sim.core.state import State


def test_it_follows_the_machine_and_no_policy_writes_into_it() -> None:
    state = State(4, [12, 12], 2, 48, None)
    view = state.view()
    slots = view.slots()
    assert slots.shape == (8,)
    assert view.residents() == []
    state.slot[5] = state.slot[2] = 1
    assert np.flatnonzero(slots).tolist() == view.residents() == [2, 5]
    with pytest.raises(ValueError, match="read-only"):
        slots[0] = True
    with pytest.raises(ValueError, match="WRITEABLE"):
        slots.setflags(write=True)
