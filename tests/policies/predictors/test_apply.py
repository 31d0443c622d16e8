"""What a fitted predictor says beside a trace, its file, and a replay with numpy only."""

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.predictors import saved
from policies.predictors.saved import Fitted
from tests.policies.predictors.conftest import SPLITS, D, E, K, L, apply, by_hand, draw, fit, save, write
from tests.sim.small_trace import ABSENT
from traces import Trace, UserError, open_trace

ROOT = Path(__file__).resolve().parents[3]


def test_the_outputs_are_what_each_layer_names(tmp_path: Path) -> None:
    arrays = draw()
    arrays["expert_ids"][5, [0, 2]] = ABSENT  # a token that these layers did not see
    written = apply(by_hand(), write(tmp_path / "t", arrays))
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
    outputs = [apply(f, trace, name="n", overwrite=True).expert_ids.tobytes() for f in (fitted, again)]
    assert outputs[0] == outputs[1]


def test_a_predictor_that_knows_the_test_prompts_is_refused(fitted: Fitted, tmp_path: Path) -> None:
    for splits in (("test", *SPLITS[1:]), (None,) * 20):  # without a split, a run measures every request
        other = write(tmp_path / str(splits[0]), draw(), splits)
        with pytest.raises(UserError, match=r"of its test prompts are among those that the predictor learned from"):
            apply(fitted, other)
        assert other.predicted == open_trace(other.path).predicted == {}


def test_outputs_can_lie_beside_a_trace_with_fewer_signals(tmp_path: Path) -> None:
    whole, bare = write(tmp_path / "whole", draw()), write(tmp_path / "bare", draw(), leave=("hidden",))
    written = apply(by_hand(), whole, beside=bare)
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
        apply(by_hand(), write(tmp_path / "whole", draw()), beside=bare)
    assert not (bare.path / "predicted").exists()


def test_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"experts, other None; the predictor was fitted on .* tiny None"):
        apply(by_hand(), write(tmp_path / "name", draw(), name="other"))
    with pytest.raises(UserError, match="allowed: the same model"):
        apply(by_hand(), write(tmp_path / "revision", draw(), revision="r2"))
    made = by_hand()
    with pytest.raises(UserError, match="is of the kind gru; allowed: promoe"):
        apply(Fitted({**made.about, "kind": "gru"}, made.layers), write(tmp_path / "kind", draw()))
    arrays = draw()
    arrays["hidden"] = arrays["hidden"][..., :-1]
    with pytest.raises(UserError, match=f"gives layer 0 {D - 1} numbers of hidden; allowed: {D}"):
        apply(by_hand(), write(tmp_path / "width", arrays))


def test_without_hidden_states_the_error_names_the_fallback(tmp_path: Path) -> None:
    bare = write(tmp_path / "t", draw(), leave=("hidden",))
    with pytest.raises(UserError, match=r"input=hidden: .* no hidden states; allowed: .*signals=all, or input=routing"):
        fit(bare, tmp_path / "f")
    found = fit(bare, tmp_path / "f", input="routing", hidden=4, epochs=2)
    written = apply(found, bare)
    assert (written.about.name, written.about.input) == ("promoe_routing", "routing")
    assert [len(mlp.mean) for mlp in found.layers] == [E, 2 * E]
    no_scores = write(tmp_path / "ids", draw(), leave=("hidden", "router_probs"))
    with pytest.raises(UserError, match=r"target=probs: .* no router_probs; allowed: target=chosen"):
        fit(no_scores, tmp_path / "g", input="routing")
    fit(no_scores, tmp_path / "g", input="routing", target="chosen", hidden=4, epochs=1)


def test_what_is_no_predictor(fitted: Fitted, trace: Trace, tmp_path: Path) -> None:
    raw = (trace.path.parent / "fitted.safetensors").read_bytes()
    tensors = pytest.importorskip("safetensors.numpy")
    bad = {
        "nothing": b"",
        "pickle": pickle.dumps(fitted.about),
        "cut": raw[:-4],
        "other": tensors.save({"x": np.zeros(3)}),
        "more": tensors.save(
            {"x": np.zeros(3)}, {"predictor": json.dumps({"schema": 2, "sha256": "", **fitted.about})}
        ),
        "version": raw.replace(b'\\"schema\\": 2', b'\\"schema\\": 1'),
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


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    """Each byte of the numbers; one of a text that reads as well with another."""
    made = by_hand()
    path = save(Fitted({**made.about, "prompts": ["0123456789abcdef"]}, made.layers), tmp_path / "f")
    raw = path.read_bytes()
    first = 8 + int.from_bytes(raw[:8], "little")  # the header's length, the header, the numbers
    for place in (*range(first, len(raw)), raw.index(b"0123456789abcdef")):
        damaged = bytearray(raw)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"predictor=.*f: not a predictor \(its SHA-256 is another"):
            saved.load(path)
    path.write_bytes(raw)
    saved.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": "future"}, "input is 'future'; allowed: hidden, routing"),
        ({"stride": L}, f"stride is {L}; allowed: .* at most {L - 1}"),
        ({"stride": 1}, r"not a predictor \('layers.2.mean'\)"),
        ({"top_k": E + 1}, f"top_k is {E + 1}; allowed: .* at most {E}"),
        ({"experts": E - 1}, f"not a predictor .*layers.0 is of {E} experts; {E - 1}"),
        ({"model": "tiny"}, "not a predictor .*model is tiny"),
        ({"prompts": "all"}, "not a predictor .*prompts are no list"),
        ({"more": 1}, "entries is .*exactly the keys"),
    ],
)
def test_what_a_predictor_may_not_say_of_itself(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    made = by_hand()
    path = save(Fitted({**made.about, **changes}, made.layers), tmp_path / "f")
    with pytest.raises(UserError, match=rf"^predictor=.*f: {message}") as caught:
        saved.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["mean", "scale", "w1", "b1", "w2", "b2"])
def test_weights_are_finite(tmp_path: Path, name: str, value: float) -> None:
    made = by_hand()
    weights = getattr(made.layers[1], name).copy()
    weights.flat[-1] = value
    layers = (made.layers[0], replace(made.layers[1], **{name: weights}))
    path = save(Fitted(made.about, layers), tmp_path / "f")
    with pytest.raises(UserError, match=rf"not a predictor \(layers.1.{name} is .*not finite"):
        saved.load(path)


@pytest.mark.parametrize("failing", ["write_bytes", "replace", "write_whole"])
def test_a_predictor_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    """What stops before the replacement leaves the old one; what stops after it leaves no times of another."""
    made = by_hand()
    path = save(Fitted(made.about, made.layers, {"fit_s": 1}), tmp_path / "f")
    before = path.read_bytes()

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(saved if failing == "write_whole" else Path, failing, fail)
        with pytest.raises(UserError, match=r"^out=.*f: No space left on device; allowed: "):
            saved.save(Fitted({**made.about, "top_k": 1}, made.layers, {"fit_s": 2}), path)
    again = saved.load(path)
    assert again.about["top_k"] == (1 if failing == "write_whole" else K)
    assert (path.read_bytes() == before) is (failing != "write_whole")
    assert again.timing == ({"fit_s": 1} if failing == "write_bytes" else {})
    assert not list(tmp_path.glob("*.partial"))


def test_it_is_said_where_prompts_cannot_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Else nobody knows whether a test prompt was learned; so also where the predictor does not know its own."""
    made = by_hand()
    knows = Fitted({**made.about, "prompts": ["0" * 16]}, made.layers)
    whole = write(tmp_path / "t", draw())
    silent = write(tmp_path / "silent", draw(), leave=("token_ids",))
    for fitted, where, unknown in ((knows, whole, False), (made, whole, True), (knows, silent, True)):
        assert apply(fitted, where, overwrite=True).about.fit.get("test_prompts_unknown", False) is unknown
        assert ("it cannot be said whether test prompts were learned" in capsys.readouterr().err) is unknown


def test_a_replay_needs_no_torch(tmp_path: Path) -> None:
    """Also with what was fitted: the policy reads a file of numbers."""
    trace = write(tmp_path / "t", draw())
    apply(by_hand(), trace)
    program = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('torch', 'safetensors', 'transformers')))\n"
        "from sim.experiment.run import run\n"
        f"words = 'policy=promoe', 'trace={trace.path}', 'budget=50%', 'chunks=3', 'bounds=false'\n"
        f"done = run(*words, out={str(tmp_path / 'out')!r})\n"
        "print(done.document['provenance']['predictors']['promoe']['stride'])\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
    assert done.stdout == "2\n", done.stderr


def test_the_shipped_outputs_are_the_samples_own() -> None:
    sample = open_trace(ROOT / "traces" / "sample")
    about = sample.predicted["promoe"].about
    assert (about.kind, about.input, about.stride, about.top_k) == ("promoe", "hidden", 2, sample.K)
    assert about.fit["requests"]["left_out"] == 0
    assert about.fit["prompts_known"]
    tested, trained = about.accuracy["test"], about.accuracy["train"]
    assert tested is not None
    assert trained is not None
    assert all(0.75 < share < 1 for share in tested[:-2])  # type: ignore[operator]
