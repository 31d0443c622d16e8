"""Layers that lie on several devices, or wait on the host or on disk until accelerate's hooks fetch them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.traces.models.spy import spied_pass
from tests.traces.models.tiny import L, tiny
from traces.collect import recorder
from traces.models.families import inspect_model

HARD = ["olmoe", "gpt_oss", "deepseek_v3", "phimoe"]


def assert_recorded_alike(model: Any, plain: Any) -> None:
    """And nothing else changed: not the logits, nor where the weights wait."""
    where = [parameter.device.type for parameter in model.parameters()]
    arrays, _, logits = spied_pass(model)
    expected, _, expected_logits = spied_pass(plain)
    assert set(arrays) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)
    assert torch.equal(logits.cpu(), expected_logits)
    assert [parameter.device.type for parameter in model.parameters()] == where
    assert inspect_model(model).expert_bytes() == inspect_model(plain).expert_bytes()


@pytest.mark.parametrize("family", HARD)
@pytest.mark.parametrize("buffers", [False, True], ids=["buffers stay", "buffers too"])
def test_weights_that_wait_on_the_host(family: str, buffers: bool) -> None:
    accelerate = pytest.importorskip("accelerate")
    model = accelerate.cpu_offload(tiny(family), torch.device("cpu"), offload_buffers=buffers)
    assert all(layer.router.weight.is_meta for layer in inspect_model(model).layers)
    assert_recorded_alike(model, tiny(family))


@pytest.mark.parametrize("family", HARD)
def test_weights_that_wait_on_disk(family: str, tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    model = accelerate.disk_offload(tiny(family), tmp_path, torch.device("cpu"), offload_buffers=True)
    assert_recorded_alike(model, tiny(family))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_layers_on_two_devices() -> None:
    accelerate = pytest.importorskip("accelerate")
    plain = tiny("deepseek_v3")
    places = {"model.embed_tokens": "cpu", "model.norm": 0, "lm_head": 0, "model.rotary_emb": 0}
    places |= {f"model.layers.{index}": "cpu" if index < 2 else 0 for index in range(L + 1)}
    model = accelerate.dispatch_model(tiny("deepseek_v3"), places, main_device=0)
    arrays, _, _ = spied_pass(model)
    expected, _, _ = spied_pass(plain)
    for name, array in expected.items():
        np.testing.assert_allclose(arrays[name], array, rtol=1e-3, atol=1e-4, err_msg=name)


class Elsewhere(torch.Tensor):
    """A tensor that says it lies on another device."""

    @property
    def device(self) -> Any:
        return torch.device("cuda", 1)


def test_layers_of_several_devices_stay_in_order() -> None:
    layers = [torch.full((3, 2), float(index)) for index in range(5)]
    mixed = [layer.as_subclass(Elsewhere) if index in (0, 3) else layer for index, layer in enumerate(layers)]
    np.testing.assert_array_equal(recorder._stacked(mixed), torch.stack(layers, dim=1))
