"""Fitting ProMoE's predictors: on no tested prompt, the same every time, and what there is to learn is learned."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.predictors import saved
from policies.predictors.examples import divide, features, prompt_keys, rows_of, targets
from policies.predictors.saved import Fitted
from policies.promoe.fit import MLP
from sim.experiment.run import run_config
from sim.results.columns import row
from sim.results.titles import rests_on, titles
from tests.policies.predictors.conftest import (
    PROMPT,
    ROWS,
    SPLITS,
    STRIDE,
    D,
    E,
    K,
    L,
    apply,
    by_hand,
    draw,
    fit,
    save,
    write,
)
from tests.sim.small_trace import ABSENT, SIZE, config
from traces import Trace, UserError
from traces.writing.predicted import write_predicted

ROOT = Path(__file__).resolve().parents[3]


def test_it_learns_what_there_is_to_learn(trace: Trace, fitted: Fitted) -> None:
    """Chance is K / E = 0.25; the gates are functions of the inputs."""
    accuracy = apply(fitted, trace, name="learned", overwrite=True).about.accuracy
    for split in ("train", "test"):
        shares = accuracy[split]
        assert shares is not None
        assert min(shares[: L - STRIDE]) > 0.75  # type: ignore[type-var]
        assert shares[L - STRIDE :] == (None,) * STRIDE


def test_what_was_chosen_is_learned_too(trace: Trace, tmp_path: Path) -> None:
    found = fit(trace, tmp_path / "f", target="chosen")
    rows = np.arange(SPLITS.index("test") * ROWS, trace.N)
    said, used = found.layers[1].top(features(trace, rows, 1, "hidden"), K), trace.expert_ids[rows, 1 + STRIDE]
    assert (said[:, :, None] == used[:, None, :]).any(-1).mean() > 0.75


def test_the_same_command_gives_the_same_bytes(trace: Trace, fitted: Fitted, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(12345)  # somebody else's
    again = fit(trace, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (trace.path.parent / "fitted.safetensors").read_bytes()
    assert again.sha256 == fitted.sha256
    other = fit(trace, tmp_path / "other", seed=1)
    assert other.sha256 != fitted.sha256


def test_the_fit_ends_when_the_held_out_loss_does_not_fall(tmp_path: Path) -> None:
    arrays = draw()
    arrays["router_probs"] = np.random.default_rng(3).permutation(arrays["router_probs"])  # nothing to learn
    noise = write(tmp_path / "t", arrays)
    found = fit(noise, tmp_path / "f", hidden=64, epochs=200, patience=2, batch=16, rate=1e-2)
    assert max(found.about["fit"]["epochs"]) < 100


def test_of_more_tokens_some_are_drawn(trace: Trace) -> None:
    rows = rows_of(trace, range(14), 40, 0)
    assert len(rows) == 40 == len(set(rows.tolist()))
    assert (np.diff(rows) > 0).all()
    assert not np.array_equal(rows, rows_of(trace, range(14), 40, 1))


def test_what_is_written_says_how_it_was_made(trace: Trace, fitted: Fitted) -> None:
    facts = fitted.about["fit"]
    assert facts["trace"] == {"model": "tiny", "sha256": trace.sha256, "decoding": "greedy"}
    assert facts["requests"] == {"fitted": 13, "held_out": 1, "left_out": 0}
    assert facts["tokens"] == {"fitted": 13 * ROWS, "held_out": ROWS}
    assert facts["parameters"] == [D * 16 + 16 + 16 * E + E] * (L - STRIDE)
    assert facts["settings"]["target"] == "probs"
    assert set(facts["versions"]) == {"torch", "numpy"}
    assert fitted.about["prompts"] == sorted(k for k in prompt_keys(trace)[:14] if k)
    assert set(fitted.timing) == {"fit_s", "threads"}
    assert b"fit_s" not in (trace.path.parent / "fitted.safetensors").read_bytes()


def test_the_perceptron_by_hand() -> None:
    """x = (3, 5): ((3 - 1) * 0.5, (5 - 1) * 0.25) = (1, 1); inner (1 + 1 - 0.5, 1 - 4) = (1.5, 0) after relu."""
    f = np.float32
    mlp = MLP(
        np.array([1, 1], f),
        np.array([0.5, 0.25], f),
        np.array([[1, 1], [1, -4]], f),
        np.array([-0.5, 0], f),
        np.array([[2, 0, 2], [9, 9, 9]], f),
        np.array([0, 1, 0], f),
    )
    x = np.array([[3, 5]], np.float16)
    np.testing.assert_array_equal(mlp.scores(x), [[3, 1, 3]])
    assert mlp.top(x, 3).tolist() == [[0, 2, 1]]  # the lower index among equals
    ties = np.random.default_rng(0).integers(0, 3, 64).astype(f)
    tied = MLP(mlp.mean, mlp.scale, mlp.w1, mlp.b1, np.zeros((2, 64), f), ties)
    assert tied.top(x, 64).tolist() == [sorted(range(64), key=lambda i: (-ties[i], i))]


def test_inputs_and_targets(trace: Trace, tmp_path: Path) -> None:
    rows = np.array([3, 40])
    np.testing.assert_array_equal(features(trace, rows, 1, "hidden"), trace.hidden[rows, 1])  # type: ignore[index]
    probs: Any = trace.router_probs
    np.testing.assert_array_equal(features(trace, rows, 1, "routing"), probs[rows, :2].reshape(2, -1))
    ids_only = write(tmp_path / "t", draw(), leave=("router_probs", "hidden"))
    one_hot = features(ids_only, rows, 1, "routing").reshape(2, 2, E)
    assert one_hot.sum() == 2 * 2 * K
    assert all(one_hot[i, l, x] == 1 for i, r in enumerate(rows) for l in (0, 1) for x in trace.expert_ids[r, l])  # noqa: E741
    chosen = targets(trace, rows, 2, "chosen")
    assert sorted(np.flatnonzero(chosen[0]).tolist()) == sorted(trace.expert_ids[3, 2].tolist())
    assert set(chosen[0].tolist()) == {0, 1 / K}
    assert targets(trace, rows, 2, "probs").sum(1) == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("source", ["hidden", "routing"])
def test_a_layer_is_foretold_from_nothing_later(tmp_path: Path, source: Any) -> None:
    """Change everything of later layers and of other tokens: what is said at layer 1 of a token stays."""
    arrays, others = draw(), draw(1)
    one = write(tmp_path / "one", arrays)
    row, layer = 50, 1
    late = np.ones((one.N, L), bool)
    late[row, : layer + 1] = False
    for name in ("expert_ids", "router_probs", "hidden"):
        arrays[name] = np.where(late[..., None], others[name], arrays[name])
    other = write(tmp_path / "other", arrays)
    assert not np.array_equal(one.hidden, other.hidden)  # type: ignore[arg-type]
    said = [features(t, np.array([row]), layer, source) for t in (one, other)]
    np.testing.assert_array_equal(*said)


ROOT = Path(__file__).resolve().parents[3]


def test_no_test_request_is_learned_from(trace: Trace) -> None:
    division = divide(trace, (), 0)
    assert sorted(division.fitted + division.held) == [r for r, split in enumerate(SPLITS) if split == "train"]
    assert (len(division.held), division.left_out) == (1, 0)  # a tenth of 14
    rows = rows_of(trace, division.fitted, 10**6, 0)
    assert set((rows // ROWS).tolist()) == set(division.fitted)
    assert len(rows) == len(division.fitted) * ROWS


def test_a_planted_leak_is_caught(trace: Trace) -> None:
    tested = SPLITS.index("test")
    with pytest.raises(RuntimeError, match=f"request {tested} is none to learn from"):
        rows_of(trace, [0, tested], 10**6, 0)


def test_a_prompt_that_is_also_tested_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Request 3 is for training, and has the prompt of request 15, which is for testing."""
    arrays = draw()
    arrays["token_ids"][3 * ROWS : 3 * ROWS + PROMPT] = arrays["token_ids"][15 * ROWS : 15 * ROWS + PROMPT]
    leaky = write(tmp_path / "t", arrays)
    division = divide(leaky, (), 0)
    assert division.left_out == 1
    assert 3 not in division.fitted + division.held
    # The same through another trace, of which request 3 is a test request.
    plain = write(tmp_path / "plain", draw())
    other = write(tmp_path / "other", draw(), ["test" if r == 3 else "train" for r in range(20)])
    assert 3 not in (division := divide(plain, [other], 0)).fitted + division.held
    assert divide(plain, (), 0).left_out == 0
    found = fit(leaky, tmp_path / "f", hidden=2, epochs=1)
    assert found.about["fit"]["requests"]["left_out"] == 1
    assert "1 train requests are left out: their prompts are test prompts" in capsys.readouterr().err
    assert prompt_keys(leaky)[15] not in found.about["prompts"]


def test_one_prompt_is_not_held_out_from_itself(tmp_path: Path) -> None:
    """Samples of one prompt: all in the fit, or all held out."""
    arrays = draw()
    for request in range(14):
        twin = request // 2 * 2 * ROWS
        arrays["token_ids"][request * ROWS : request * ROWS + PROMPT] = arrays["token_ids"][twin : twin + PROMPT]
    for seed in range(5):
        division = divide(write(tmp_path / str(seed), arrays), (), seed)
        assert len(division.held) == 2
        assert division.held[0] // 2 == division.held[1] // 2


def test_the_test_requests_change_nothing(trace: Trace, fitted: Fitted, tmp_path: Path) -> None:
    arrays, others = draw(), draw(1)
    first = SPLITS.index("test") * ROWS
    for name in arrays:
        arrays[name][first:] = others[name][first:]
    again = fit(write(tmp_path / "t", arrays), tmp_path / "f")
    for ours, its in zip(fitted.layers, again.layers, strict=True):
        for name in MLP.__slots__:
            np.testing.assert_array_equal(getattr(ours, name), getattr(its, name))


def test_a_train_request_does_change_something(fitted: Fitted, tmp_path: Path) -> None:
    arrays = draw()
    arrays["hidden"][ROWS] += 1
    again = fit(write(tmp_path / "t", arrays), tmp_path / "f")
    assert not np.array_equal(fitted.layers[0].w1, again.layers[0].w1)


@pytest.mark.parametrize("splits", [(None,) * 20, ("test",) * 20, ("train", *("test",) * 19)])
def test_too_little_to_learn_from(tmp_path: Path, splits: tuple[str | None, ...]) -> None:
    with pytest.raises(UserError, match=r"no train requests; allowed: .*split=0.7|1 train prompts .* at least 2"):
        divide(write(tmp_path / "t", draw(), splits), (), 0)


def test_what_learned_from_modelled_signals_says_so_wherever_it_is_applied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {"router_probs": {"rest": 0.3}, "gate_ahead": {"recall": [0.9]}}
    arrays = draw() | {"gate_ahead": np.full((len(SPLITS) * ROWS, L, 1, K), ABSENT)}
    marked, plain = write(tmp_path / "made", arrays, modelled=made), write(tmp_path / "plain", draw())
    few: Any = {"hidden": 4, "epochs": 1}
    found = fit(marked, tmp_path / "f", **few)
    assert found.about["fit"]["modelled"] == {"router_probs": {"rest": 0.3}}  # its target; it reads no gate_ahead
    assert "what it learns from is modelled, not recorded: router_probs" in capsys.readouterr().err
    assert saved.load(tmp_path / "f").about == found.about
    assert apply(found, plain).about.fit["modelled"] == {"router_probs": {"rest": 0.3}}
    assert "rests on what is modelled, not recorded: router_probs" in capsys.readouterr().err
    result = run_config(config(plain, 4 * SIZE, policy="promoe"), tmp_path / "out").document
    assert result["provenance"]["modelled"] == {"predictor promoe": {"router_probs": {"rest": 0.3}}}
    own = row(result, "")
    assert rests_on([own]) == "modelled, not recorded: predictor promoe (from router_probs) of promoe"
    assert "modelled" not in str(titles(own))
    for other in (fit(marked, tmp_path / "g", target="chosen", **few), fit(plain, tmp_path / "h", **few)):
        assert "modelled" not in apply(other, plain, overwrite=True).about.fit
    assert (
        "modelled" not in run_config(config(plain, 4 * SIZE, policy="promoe"), tmp_path / "out").document["provenance"]
    )


def test_a_twin_whose_predictor_read_modelled_signals_says_so(tmp_path: Path) -> None:
    made, plain = {"router_probs": {"rest": 0.3}}, write(tmp_path / "plain", draw())
    marked = write(tmp_path / "made", draw(), modelled=made)
    found = fit(plain, tmp_path / "f", input="routing", hidden=4, epochs=1)
    assert "modelled" not in apply(found, marked).about.fit  # the trace itself says so
    assert apply(found, marked, beside=plain).about.fit["modelled"] == made


def test_what_is_said_to_be_modelled_are_signals(tmp_path: Path) -> None:
    wrong = by_hand()
    for found, said in (
        ("all", "fit.modelled is 'all'; allowed: an object"),
        ({"x": {}}, "name in fit.modelled is 'x'"),
    ):
        about = {**wrong.about, "fit": {"modelled": found}}
        with pytest.raises(UserError, match=said):
            saved.load(save(Fitted(about, wrong.layers), tmp_path / "f"))
        with pytest.raises(UserError, match="modelled"):
            write_predicted(
                write(tmp_path / str(len(said)), draw()),
                [np.full((len(SPLITS) * ROWS, L, K), ABSENT)],
                name="n",
                kind="x",
                input="hidden",
                stride=STRIDE,
                top_k=K,
                fit=about["fit"],
            )
