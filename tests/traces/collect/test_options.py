"""Values that no recording can be asked for are refused where they are read, before torch is imported."""

import sys
from pathlib import Path

import pytest

from traces import UserError
from traces.cli import main


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
    torch = pytest.importorskip("torch", reason="the collector needs the extra 'hf'")
    from traces.models.devices import limits

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match=message):
        limits(value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert limits("1:20GiB,cpu:60GB") == {1: "20GiB", "cpu": "60GB"}


@pytest.mark.parametrize("device", ["cpu:3", "cuda:-1", "mps", ""])
def test_devices_that_there_are_not(device: str) -> None:
    pytest.importorskip("torch", reason="the collector needs the extra 'hf'")
    from traces.models.devices import choose

    with pytest.raises(UserError, match="is not known; allowed: auto, cpu, cuda, cuda:N, spread"):
        choose(device, 0)


def test_mistakes_cost_no_import_of_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["collect", "model=m", "prompts=p", f"out={tmp_path / 't'}", "batch=0"]) == 2
    assert capsys.readouterr().err == "error: batch=0: allowed: a whole number, 1 to 2147483647\n"
