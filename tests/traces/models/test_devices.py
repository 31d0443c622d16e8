"""Layers that lie on several devices, or wait on the host or on disk until accelerate's hooks fetch them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.traces.models.tiny import L, spied_pass, tiny
from traces import UserError
from traces.collect import recorder
from traces.models.devices import choose, limits
from traces.models.families import inspect_model


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


@pytest.mark.parametrize("family", ["olmoe", "gpt_oss", "deepseek_v3", "phimoe"])
@pytest.mark.parametrize("where", ["host, buffers stay", "host", "disk"])
def test_weights_that_wait_elsewhere(family: str, where: str, tmp_path: Path) -> None:
    accelerate, cpu = pytest.importorskip("accelerate"), torch.device("cpu")
    if where == "disk":
        model = accelerate.disk_offload(tiny(family), tmp_path, cpu, offload_buffers=True)
    else:
        model = accelerate.cpu_offload(tiny(family), cpu, offload_buffers=where == "host")
    assert all(layer.router.weight.is_meta for layer in inspect_model(model).layers)
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


def test_where_a_model_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate", reason="device=spread needs accelerate")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [choose("auto", 10), choose("cpu", 10**18), choose("auto", 10**18)] == ["cpu", "cpu", "spread"]
    with pytest.raises(UserError, match="max_memory= goes with device=spread, not device=cpu"):
        choose("cpu", 0, limited=True)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("0:20GiB", "this machine has 0 CUDA devices"),
        ("cpu:1GB,cpu:2GB", "'cpu:2GB' is not DEVICE:SIZE, each device once"),
        ("cpu:0B", "'cpu:0B' is not DEVICE:SIZE"),
        ("disk:1GB", "'disk:1GB' is not DEVICE:SIZE"),
        (",", "'' is not DEVICE:SIZE"),
    ],
)
def test_limits_of_memory(value: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match=message):
        limits(value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert limits("1:20GiB,cpu:60GB") == {1: "20GiB", "cpu": "60GB"}


@pytest.mark.parametrize("device", ["cpu:3", "cuda:-1", "mps", ""])
def test_devices_that_there_are_not(device: str) -> None:
    with pytest.raises(UserError, match="is not known; allowed: auto, cpu, cuda, cuda:N, spread"):
        choose(device, 0)
