"""The library's own way, from the runtime's store: the same weights, and nothing left behind."""

import json
import sys
from typing import Any

import pytest
import torch

from real.cli import main
from real.runtime.offloaded import Offloaded, accelerated, resident
from tests.traces.models.tiny import tiny
from traces.kit.errors import UserError

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


def logits(model: Any) -> Any:
    with torch.inference_mode():
        return model(input_ids=IDS, use_cache=False).logits


@pytest.mark.parametrize("name", ["olmoe", "gpt_oss", "deepseek_v3"])
def test_the_library_computes_what_it_did_before(name: str) -> None:
    before = tiny(name)
    wanted = logits(before)
    model = Offloaded(before, torch.device("cpu"))
    for way in (resident, accelerated):
        with way(model) as whole:
            assert torch.equal(logits(whole), wanted), way
        assert all(not p.numel() for layer in model.moe.layers for p in layer.experts.parameters())
        assert not any(p.is_meta for p in model.model.parameters())
        with pytest.raises(UserError, match="taken into host memory"):
            logits(model.model)


# As the library has them: in strides of whole experts its row would be of other memory than a user's.
@pytest.mark.parametrize("name", ["olmoe", "gpt_oss"])
def test_the_library_s_weights_are_its_own_and_contiguous(name: str) -> None:
    model = Offloaded(tiny(name), torch.device("cpu"))
    ours = {block.untyped_storage().data_ptr() for block in model.store.blocks}
    with resident(model):
        held = [p for layer in model.moe.layers for p in layer.experts.parameters()]
        assert all(p.is_contiguous() for p in held)
        own = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in held}
        assert sum(own.values()) == model.store.nbytes
        assert not ours & own.keys()


def test_an_error_within_leaves_nothing_behind() -> None:
    model = Offloaded(tiny("olmoe"), torch.device("cpu"))
    with pytest.raises(RuntimeError, match="planted"), accelerated(model):
        raise RuntimeError("planted")
    assert all(not p.numel() for layer in model.moe.layers for p in layer.experts.parameters())
    with resident(model) as whole:
        logits(whole)


@pytest.mark.ci
def test_peers_has_a_row_for_each_way_and_says_which_is_left_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(model: Any) -> Any:
        raise UserError("no room on the device")

    words = ["policy=lru", "budget=25%", "new_tokens=2", "accelerate_tokens=2", "prompt_tokens=2", "threads=1"]
    assert main(["peers", *words, "format=json"]) == 0
    found = json.loads(capsys.readouterr().out)
    names = ["library, all on the device", "ours, lru at 100%, exact", "ours, lru at 100%, grouped", "ours, lru at 25%"]
    names.append("accelerate, CPU offload")
    assert [row["name"] for row in found["rows"]] == names
    assert all(row["ms_per_token"] > 0 for row in found["rows"])
    assert found["left_out"] == {}
    monkeypatch.setitem(sys.modules, "accelerate", None)
    monkeypatch.setattr("real.runtime.offloaded.resident", refused)
    assert main(["peers", *words]) == 0
    printed = capsys.readouterr()
    assert "no row for accelerate, CPU offload: accelerate is not installed" in printed.err
    assert "no row for library, all on the device: no room on the device" in printed.err
    assert all(name in printed.out for name in names[1:4])


def test_what_stops_a_row_leaves_the_way_of_computing_as_it_was() -> None:
    """Afterwards grouped outputs would have been measured as exact ones."""
    model = Offloaded(tiny("olmoe"), torch.device("cpu"))
    with model.computing(exact=False):
        assert not model.exact
    with pytest.raises(KeyboardInterrupt), model.computing(exact=False):
        raise KeyboardInterrupt
    assert model.exact
