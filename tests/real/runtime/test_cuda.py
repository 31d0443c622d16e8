"""What must hold on a device before anything is measured on it: on a GPU all of it, on this CPU what it has."""

from typing import Any

import numpy as np
import pytest
import torch

from real.runtime import compute, selfcheck
from real.runtime.backend import Backend, DeviceError, Ticket
from real.runtime.compute import Experts, LayerCompute, in_store
from real.runtime.pool import Pool
from real.runtime.selfcheck import CHECKS, ONLY_CUDA

CPU = torch.device("cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", CHECKS)
def test_on_a_gpu(name: str) -> None:
    CHECKS[name](torch.device("cuda", torch.cuda.current_device()))


@pytest.mark.parametrize("name", sorted(CHECKS.keys() - ONLY_CUDA))
def test_on_a_cpu(name: str) -> None:
    CHECKS[name](CPU)


# -- each can fail ----------------------------------------------------------------------------------------------


def failing(name: str) -> str:
    with pytest.raises((AssertionError, DeviceError)) as caught:
        CHECKS[name](CPU)
    return str(caught.value)


def test_a_copy_that_comes_too_late_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(Backend):
        def start_copy(self, target: object, source: object) -> object:
            return Ticket()

    monkeypatch.setattr(selfcheck, "backend_of", lambda device: Late())
    assert "the last of four copies left [0], not 4" in failing("copies_arrive_in_order")


def test_experts_in_other_slots_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    start = Pool.start_copy
    monkeypatch.setattr(Pool, "start_copy", lambda pool, chunk: start(pool, chunk ^ 2))
    assert "other bytes" in failing("slots_hold_their_experts")


def test_bits_that_depend_on_what_is_resident_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if what lies in the first slots were computed by another kernel."""
    expert = LayerCompute.expert

    def rounding(layer: LayerCompute, slot: int, x: object, out: torch.Tensor) -> None:
        expert(layer, slot, x, out)
        if slot < 2:
            out.mul_(1.01)

    monkeypatch.setattr(LayerCompute, "expert", rounding)
    assert "other bits than lru, 24 experts" in failing("forced_passes_agree")
    assert "other bits than lru, 24 experts" in failing("live_passes_agree")


def test_a_host_that_rounds_otherwise_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def rounding(*given: Any) -> Experts:
        experts = in_store(*given)
        expert = experts.expert
        monkeypatch.setattr(experts, "expert", lambda place, x, out: (expert(place, x, out), out.mul_(1.01)))
        return experts

    monkeypatch.setattr(compute, "in_store", rounding)
    assert "other bits than without a host" in failing("host_passes_agree")


def test_logits_apart_are_measured_by_the_largest_and_by_what_they_say() -> None:
    wanted = np.log(np.array([[0.5, 0.25, 0.25], [0.2, 0.4, 0.4]]))
    found = np.log(np.array([[0.25, 0.5, 0.25], [0.2, 0.4, 0.4]])) + 1
    off, divergence = selfcheck.apart(found, wanted)
    assert off == pytest.approx((1 + np.log(2)) / np.log(5))
    assert divergence == pytest.approx(0.25 * np.log(2)), "a constant is of no effect"


def test_a_wait_more_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    one_by_one = LayerCompute.one_by_one

    def waiting(layer: LayerCompute, *args: object, **kwargs: object) -> torch.Tensor:
        layer.pool.backend.synchronize()
        return one_by_one(layer, *args, **kwargs)

    monkeypatch.setattr(LayerCompute, "one_by_one", waiting)
    assert "not 3 waits" in failing("passes_cross_seldom")
