"""The pieces of the training: the text's parts, the fast experts, and a run that resumes where it stopped."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.traces.models.tiny import tiny
from traces.kit.errors import UserError
from traces.tiny_moe import train as training
from traces.tiny_moe.blocks import ATTENTION, EXPERTS
from traces.tiny_moe.tokens import DOMAINS, HELD_OUT_ONE_IN, _Prose, held_out
from traces.tiny_moe.train import LONG_FROM, balance_loss, draw, lognormal_shares


def test_one_document_in_twenty_is_held_out_for_good() -> None:
    kept = [f"handbook/{index}" for index in range(4000) if held_out(f"handbook/{index}")]
    assert 0.8 * 4000 / HELD_OUT_ONE_IN < len(kept) < 1.2 * 4000 / HELD_OUT_ONE_IN
    assert kept[:2] == ["handbook/10", "handbook/17"]


def test_a_page_leaves_its_prose() -> None:
    page = _Prose()
    page.feed(
        "<html><head><title>T</title></head><body><ul class='docnav'><li><a>Next</a></li></ul>"
        "<h1>Over\nview</h1><p>One <b>two</b><br/>\n three.</p><pre>a\n  b</pre></body></html>"
    )
    assert page.text() == "Over view\nOne two three.\na\n  b"


@pytest.mark.parametrize(("narrow", "rtol", "atol"), [(False, 1e-4, 1e-6), (True, 0.02, 0.1)])
@pytest.mark.parametrize("rows", [20, 400])
def test_our_experts_compute_what_the_library_computes(rows: int, narrow: bool, rtol: float, atol: float) -> None:
    results = []
    for implementation in ("eager", EXPERTS):
        model = tiny("olmoe")
        model.set_experts_implementation(implementation)
        generator = torch.Generator().manual_seed(0)
        hidden = torch.randn(rows, 32, generator=generator, requires_grad=True)
        weights, ids = torch.rand(rows, 8, generator=generator).pow(8).topk(3)  # of unequal load
        ids[: rows // 2] = torch.tensor([5, 6, 7])
        weights = weights.detach().requires_grad_()
        experts = model.model.layers[0].mlp.experts
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow and implementation == EXPERTS):
            output = experts(hidden, ids, weights)
        output.float().square().mean().backward()
        grads = (hidden.grad, weights.grad, experts.gate_up_proj.grad, experts.down_proj.grad)
        results.append((output.detach().float(), *(grad / grad.std() for grad in grads)))
    torch.testing.assert_close(*results, rtol=rtol, atol=atol)


def test_our_attention_computes_what_the_library_computes() -> None:
    model, ids = tiny("olmoe"), torch.arange(40).reshape(2, 20)
    found = []
    for implementation in ("eager", ATTENTION):
        model.set_attn_implementation(implementation)
        found.append(model(input_ids=ids, use_cache=False).logits)
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)


def test_the_last_fifth_sees_as_many_tokens_in_longer_windows() -> None:
    options = training.Options(tokens=10_000, batch=8, length=16, long=64)
    texts = [np.arange(500, dtype=np.uint16)] * 3
    assert draw(texts, 5, options, LONG_FROM - 0.01).shape == (8, 17)
    assert draw(texts, 5, options, LONG_FROM).shape == (2, 65)
    assert torch.equal(draw(texts, 5, options), draw(texts, 5, options))
    with pytest.raises(UserError, match=r"long=60 does not divide batch=8 times length=16$"):
        training.Options(tokens=10_000, batch=8, length=16, long=60)


def test_a_balanced_router_loses_top_k() -> None:
    even = torch.eye(8).repeat(4, 1) * 50
    assert balance_loss((even,), top_k=1).item() == pytest.approx(1.0, abs=1e-4)
    assert balance_loss((even, even[:1].repeat(32, 1)), top_k=1).item() == pytest.approx(4.5, abs=1e-3)


def test_a_router_as_uneven_as_wanted_loses_top_k() -> None:
    wanted = lognormal_shares(8, 0.75)
    assert wanted.sum().item() == pytest.approx(1)
    assert wanted[-1] / wanted[0] == pytest.approx(np.exp(2 * 0.75 * 1.5341), rel=1e-3), "the 15/16 quantile"
    assert torch.equal(lognormal_shares(8, 0.0), torch.full((8,), 1 / 8, dtype=torch.float64))
    counts = (wanted * 10_000).round().long()
    drawn = torch.repeat_interleave(torch.eye(8)[torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])], counts, dim=0) * 50
    assert balance_loss((drawn,), 1, 0.75).item() == pytest.approx(1.0, abs=1e-3)
    assert balance_loss((drawn,), 1).item() > 1.4


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Token arrays of every domain, and a tiny model to train on them."""
    (tmp_path / "tokens").mkdir()
    for index, domain in enumerate(DOMAINS):
        np.save(tmp_path / "tokens" / f"{domain.name}.train.npy", np.arange(100, dtype=np.uint16) + index)
    monkeypatch.setattr(training, "build", lambda seed: tiny("olmoe"))
    monkeypatch.setattr("sys.argv", ["train"])
    return tmp_path


def run(folder: Path, steps: int, name: str, **settings: Any) -> dict[str, Any]:
    home = folder / name
    home.mkdir(exist_ok=True)
    if not (home / "tokens").exists():
        (home / "tokens").symlink_to(folder / "tokens")
    options = training.Options(tokens=steps * 64, batch=2, length=32, long=64, warm_up=2, folder=home, **settings)
    training.train(options)
    state: dict[str, Any] = torch.load(home / "run" / "checkpoint.pt", weights_only=True)
    return state


def test_a_resumed_run_is_the_same_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(folder, 6, "whole")
    monkeypatch.setattr(training, "SAVE_EVERY_S", -1.0)
    calls = iter(range(100))

    def interrupted(*args: Any) -> Any:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return losses(*args)

    losses = training.losses
    monkeypatch.setattr(training, "losses", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(folder, 6, "parts")
    parts = run(folder, 6, "parts")
    assert parts["run"]["step"] == whole["run"]["step"] == 6
    torch.testing.assert_close(parts["model"], whole["model"], rtol=0, atol=0)


def test_other_settings_do_not_resume(folder: Path) -> None:
    run(folder, 2, "run")
    with pytest.raises(UserError, match=r"seed=1 cannot resume .* made with seed=0"):
        run(folder, 2, "run", seed=1)


def test_training_needs_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is missing: run python -m"):
        training.train(training.Options(tokens=10_000, folder=tmp_path))
