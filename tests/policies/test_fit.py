"""Fitting ProMoE's predictors: on train requests alone, the same every time, and used with numpy only."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fit_traces import ABSENT, PROMPT, ROWS, SPLITS, STRIDE, D, E, K, L, draw, write

from policies.cli import main
from policies.predictors import promoe, saved
from policies.predictors.examples import divide, features, prompt_keys, rows_of, targets
from policies.predictors.mlp import MLP, Settings
from policies.predictors.saved import Fitted
from traces import Trace, UserError, open_trace

ROOT = Path(__file__).resolve().parents[2]
QUICK = Settings(hidden=16, epochs=25, patience=25, batch=32, rate=1e-2)


def fit(trace: Trace, out: Path, *, settings: Settings = QUICK, others: Any = (), **changes: Any) -> Fitted:
    pytest.importorskip("torch")
    given: dict[str, Any] = {"source": "hidden", "target": "probs", "stride": STRIDE, "top_k": K, "tokens": 10**6}
    return promoe.fit(trace, out, promoe.Plan(**given | changes, threads=1, settings=settings), others)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    return write(tmp_path_factory.mktemp("fit") / "trace", draw())


@pytest.fixture(scope="module")
def fitted(trace: Trace) -> Fitted:
    return fit(trace, trace.path.parent / "fitted.safetensors")


def by_hand() -> Fitted:
    """Not fitted at all: whatever comes, layer l names experts l and l + 1, for l + 2."""
    zero, layers = np.zeros(D, np.float32), []
    for layer in range(L - STRIDE):
        scores = np.zeros(E, np.float32)
        scores[[layer, layer + 1]] = 2, 1
        layers.append(MLP(zero, zero + 1, np.zeros((D, 3), np.float32), zero[:3], np.zeros((3, E), np.float32), scores))
    about = {"kind": "promoe", "input": "hidden", "stride": STRIDE, "top_k": K, "layers": L, "experts": E}
    return Fitted({**about, "model": ["tiny", None], "prompts": None, "fit": {}}, tuple(layers))


# -- what is learned from ---------------------------------------------------------------------------------------


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
    found = fit(leaky, tmp_path / "f", settings=Settings(hidden=2, epochs=1))
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


# -- the fit ----------------------------------------------------------------------------------------------------


def test_it_learns_what_there_is_to_learn(trace: Trace, fitted: Fitted) -> None:
    """Chance is K / E = 0.25; the gates are functions of the inputs."""
    accuracy = promoe.apply(fitted, trace, name="learned", overwrite=True).about.accuracy
    for split in ("train", "test"):
        shares = accuracy[split]
        assert shares is not None
        assert min(shares[: L - STRIDE]) > 0.75  # type: ignore[type-var]
        assert shares[L - STRIDE :] == (None,) * STRIDE


@pytest.mark.parametrize("target", ["probs", "chosen"])
def test_both_targets_are_learned(trace: Trace, tmp_path: Path, target: str) -> None:
    found = fit(trace, tmp_path / "f", target=target)
    rows = np.arange(SPLITS.index("test") * ROWS, trace.N)
    said, used = found.layers[1].top(features(trace, rows, 1, "hidden"), K), trace.expert_ids[rows, 1 + STRIDE]
    assert (said[:, :, None] == used[:, None, :]).any(-1).mean() > 0.75


def test_the_same_command_gives_the_same_bytes(trace: Trace, fitted: Fitted, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(12345)  # somebody else's
    again = fit(trace, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (trace.path.parent / "fitted.safetensors").read_bytes()
    assert again.sha256 == fitted.sha256
    other = fit(trace, tmp_path / "other", settings=Settings(16, 25, 25, 32, 1e-2, seed=1))
    assert other.sha256 != fitted.sha256


def test_the_fit_ends_when_the_held_out_loss_does_not_fall(tmp_path: Path) -> None:
    arrays = draw()
    arrays["router_probs"] = np.random.default_rng(3).permutation(arrays["router_probs"])  # nothing to learn
    noise = write(tmp_path / "t", arrays)
    found = fit(noise, tmp_path / "f", settings=Settings(hidden=64, epochs=200, patience=2, batch=16, rate=1e-2))
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


# -- the numbers ------------------------------------------------------------------------------------------------


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
    assert mlp.parameters == 4 + 2 + 6 + 3


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


# -- applying ---------------------------------------------------------------------------------------------------


def test_the_outputs_are_what_each_layer_names(tmp_path: Path) -> None:
    arrays = draw()
    arrays["expert_ids"][5, [0, 2]] = ABSENT  # a token that these layers did not see
    written = promoe.apply(by_hand(), write(tmp_path / "t", arrays))
    assert written.about.name == "promoe"
    expected = np.full((len(arrays["hidden"]), L, K), ABSENT)
    expected[:, 0], expected[:, 1] = (0, 1), (1, 2)
    expected[5, 0] = ABSENT
    np.testing.assert_array_equal(written.expert_ids, expected)
    used = [set(row) & {0, 1} for row in arrays["expert_ids"][:, 2].tolist()]
    shares = written.about.accuracy["all"]
    assert shares is not None
    assert shares[0] == sum(map(len, used)) / (K * (len(used) - 1))  # nothing said is nothing right


def test_a_file_gives_back_what_was_fitted(trace: Trace, fitted: Fitted, tmp_path: Path) -> None:
    again = saved.load(trace.path.parent / "fitted.safetensors")
    assert (again.about, again.sha256, again.timing) == (fitted.about, fitted.sha256, fitted.timing)
    outputs = [promoe.apply(f, trace, name="n", overwrite=True).expert_ids.tobytes() for f in (fitted, again)]
    assert outputs[0] == outputs[1]


def test_a_predictor_that_knows_the_test_prompts_is_refused(fitted: Fitted, tmp_path: Path) -> None:
    for splits in (("test", *SPLITS[1:]), (None,) * 20):  # without a split, a run measures every request
        other = write(tmp_path / str(splits[0]), draw(), splits)
        with pytest.raises(UserError, match=r"of its test prompts are among those that the predictor learned from"):
            promoe.apply(fitted, other)
        assert other.predicted == open_trace(other.path).predicted == {}


def test_outputs_can_lie_beside_a_trace_with_fewer_signals(tmp_path: Path) -> None:
    whole, bare = write(tmp_path / "whole", draw()), write(tmp_path / "bare", draw(), leave=("hidden",))
    written = promoe.apply(by_hand(), whole, beside=bare)
    assert open_trace(whole.path).predicted == {}
    assert set(open_trace(bare.path).predicted) == {"promoe"}
    assert (written.about.trace, written.about.fit["applied_to"]) == (bare.sha256, whole.sha256)


@pytest.mark.parametrize("differs", ["expert_ids", "token_ids", "requests", "unknown"])
def test_only_beside_a_twin(tmp_path: Path, differs: str) -> None:
    arrays, splits, leave = draw(), SPLITS, ["hidden"]
    if differs == "expert_ids":
        arrays[differs][-1, -1] = arrays[differs][-1, -1, ::-1]
    elif differs == "token_ids":
        arrays[differs][-1] += 1
    elif differs == "requests":
        splits = ("test", *SPLITS[1:])
    else:
        leave.append("token_ids")
    bare = write(tmp_path / "bare", arrays, splits, leave)
    with pytest.raises(UserError, match=r"^beside=.*bare: differs from trace=.*whole"):
        promoe.apply(by_hand(), write(tmp_path / "whole", draw()), beside=bare)
    assert not (bare.path / "predicted").exists()


def test_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"experts, other None; the predictor was fitted on .* tiny None"):
        promoe.apply(by_hand(), write(tmp_path / "name", draw(), name="other"))
    with pytest.raises(UserError, match="allowed: the same model"):
        promoe.apply(by_hand(), write(tmp_path / "revision", draw(), revision="r2"))
    arrays = draw()
    arrays["hidden"] = arrays["hidden"][..., :-1]
    with pytest.raises(UserError, match=f"gives layer 0 {D - 1} numbers of hidden; allowed: {D}"):
        promoe.apply(by_hand(), write(tmp_path / "width", arrays))


def test_without_hidden_states_the_error_names_the_fallback(tmp_path: Path) -> None:
    bare = write(tmp_path / "t", draw(), leave=("hidden",))
    with pytest.raises(UserError, match=r"input=hidden: .* no hidden states; allowed: .*signals=all, or input=routing"):
        fit(bare, tmp_path / "f")
    found = fit(bare, tmp_path / "f", source="routing", settings=Settings(hidden=4, epochs=2))
    written = promoe.apply(found, bare)
    assert (written.about.name, written.about.input) == ("promoe_routing", "routing")
    assert [len(mlp.mean) for mlp in found.layers] == [E, 2 * E]
    no_scores = write(tmp_path / "ids", draw(), leave=("hidden", "router_probs"))
    with pytest.raises(UserError, match=r"target=probs: .* no router_probs; allowed: target=chosen"):
        fit(no_scores, tmp_path / "g", source="routing")
    fit(no_scores, tmp_path / "g", source="routing", target="chosen", settings=Settings(hidden=4, epochs=1))


@pytest.mark.parametrize("key", ["stride", "top_k"])
def test_what_the_model_has_not(trace: Trace, tmp_path: Path, key: str) -> None:
    with pytest.raises(UserError, match=f"^{key}=9: allowed: 1 to"):
        fit(trace, tmp_path / "f", **{key: 9})


def test_what_is_no_predictor(fitted: Fitted, trace: Trace, tmp_path: Path) -> None:
    raw = (trace.path.parent / "fitted.safetensors").read_bytes()
    tensors = pytest.importorskip("safetensors.numpy")
    bad = {
        "nothing": b"",
        "pickle": pickle.dumps(fitted.about),
        "cut": raw[:-4],
        "text": b"{}",
        "other": tensors.save({"x": np.zeros(3)}),
        "more": tensors.save({"x": np.zeros(3)}, {"predictor": json.dumps({"schema": 1, **fitted.about})}),
        "version": raw.replace(b'\\"schema\\": 1', b'\\"schema\\": 7'),
        "kind": raw.replace(b"F32", b"I32"),
    }
    for name, content in bad.items():
        assert content != raw, name
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"predictor=.*{name}: not a predictor") as caught:
            saved.load(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no such file"):
        saved.load(tmp_path / "missing")


# -- the command line -------------------------------------------------------------------------------------------


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    trace, out = write(tmp_path / "t", draw()), tmp_path / "f.safetensors"
    bare = write(tmp_path / "bare", draw(), leave=("hidden",))
    words = [f"trace={trace.path}", f"out={out}", "hidden=8", "epochs=2", f"apply={trace.path}"]
    assert main(["fit", "promoe", *words]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "layer 1: 2 epochs, held-out loss" in captured.err
    assert "accuracy in %, mean over layers: all" in captured.err
    assert main(["apply", "promoe", f"predictor={out}", f"trace={trace.path}", f"beside={bare.path}", "name=mine"]) == 0
    assert set(open_trace(trace.path).predicted) == {"promoe"}
    assert set(open_trace(bare.path).predicted) == {"mine"}
    assert json.loads((bare.path / "predicted/mine/timing.json").read_text())["threads"] == 1
    # Before anything is fitted, it is known that the outputs could not be written.
    out.unlink()
    assert main(["fit", "promoe", *words]) == 2
    assert "exists already; allowed: another name=, or overwrite=true" in capsys.readouterr().err
    assert not out.exists()
    assert main(["fit", "promoe", *words, "overwrite=true", "seed=1"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["learn"], "learn: no such command; allowed: fit, apply, --help"),
        (["fit"], "fit : nothing is fitted under that name; allowed: promoe"),
        (["fit", "lru"], "fit lru: nothing is fitted under that name; allowed: promoe"),
        (["fit", "promoe"], "missing trace=, out="),
        (["fit", "promoe", "trace=nowhere", "out=x"], "trace=nowhere: no such folder"),
        (["fit", "promoe", "trace=x", "out=x", "epochs=0"], "epochs=0 is out of range; allowed: 1 to 10000"),
        (["fit", "promoe", "trace=x", "out=x", "input=all"], "input='all' is not known; allowed: hidden, routing"),
        (["fit", "promoe", "trace=x", "out=x", "name=../x"], "name of a predictor is '../x'"),
        (["apply", "promoe", "predictor=nowhere", "trace=x"], "predictor=nowhere: no such file"),
        (["apply", "promoe", "trace=x"], "missing predictor="),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("words", [["--help"], ["fit", "--help"], ["apply", "promoe", "--help"], []])
def test_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert capsys.readouterr().out.startswith(("python -m policies", "Fit what policies"))


def test_a_replay_needs_no_torch(tmp_path: Path) -> None:
    """Also with what was fitted: the policy reads a file of numbers."""
    trace = write(tmp_path / "t", draw())
    promoe.apply(by_hand(), trace)
    program = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('torch', 'safetensors', 'transformers')))\n"
        "from sim.run import run\n"
        f"words = 'policy=promoe', 'trace={trace.path}', 'budget=50%', 'chunks=3', 'bounds=false'\n"
        f"done = run(*words, out={str(tmp_path / 'out')!r})\n"
        "print(done.document['provenance']['predictors']['promoe']['stride'])\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
    assert done.stdout == "2\n", done.stderr


def test_fitting_without_torch_says_what_to_install(trace: Trace, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["fit", "promoe", f"trace={trace.path}", "out=x"]) == 2
    assert "pip install 'moe-offload-workbench[hf]'" in capsys.readouterr().err


def test_the_shipped_outputs_are_the_samples_own() -> None:
    sample = open_trace(ROOT / "traces" / "sample")
    about = sample.predicted["promoe"].about
    assert (about.kind, about.input, about.stride, about.top_k) == ("promoe", "hidden", 2, sample.K)
    assert about.fit["requests"]["left_out"] == 0
    assert about.fit["prompts_known"]
    tested, trained = about.accuracy["test"], about.accuracy["train"]
    assert tested is not None
    assert trained is not None
    assert all(0.8 < share < 1 for share in tested[:-2])  # type: ignore[operator]
