"""Values that no recording can be asked for are refused where they are read, before torch is imported."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from traces import UserError
from traces.cli import main
from traces.collect.cli import Options
from traces.kit.parse import parse

COUNTS = ("max_new_tokens", "max_prompt_tokens", "samples", "batch", "ahead", "seed", "limit", "threads")
SHARES = ("temperature", "top_p", "split", "overhead")


def refused(key: str, value: str) -> str:
    words = ["model=m", "prompts=p", "out=o", f"{key}={value}"]
    with pytest.raises(UserError, match=key) as caught:
        parse(Options, [*words, "decoding=sampled"], "usage")
    message = str(caught.value)
    assert len(message) < 300
    assert "\n" not in message
    return message


@pytest.mark.parametrize("key", COUNTS)
def test_whole_numbers(key: str) -> None:
    for value in ("", "-1", "1.5", "1e3", " 3", "1_0", "x", str(2**31), "9" * 30, "9" * 5000):
        refused(key, value)


@pytest.mark.parametrize("key", SHARES)
def test_other_numbers(key: str) -> None:
    for value in ("", "-1", "nan", "inf", "-inf", "1e999", " 1", "1_0", "x"):
        refused(key, value)


@pytest.mark.parametrize("key", ["licence", "priced_as"])
def test_what_the_manifest_shows_is_printable(key: str) -> None:
    assert refused(key, "two\nlines") == f"{key}=two\\nlines: allowed: printable text"


def test_the_largest_numbers_are_named_in_full() -> None:
    assert refused("seed", "-1") == "seed=-1: allowed: a whole number, 0 to 2147483647"
    assert refused("split", "1.5") == "split=1.5: allowed: a number, 0 to 1"


@pytest.mark.parametrize("verb", ["collect", "calibrate"])
@pytest.mark.parametrize("words", [["--help"], ["-h"], ["out=x", "--help"]])
def test_help_wherever_it_is_asked_for(verb: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, *words]) == 0
    assert capsys.readouterr().out.startswith(f"python -m traces {verb} ")


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
