"""``measure=validation``: a part of the train requests is measured, and nothing of it is learned."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sim
from policies.api import History
from policies.static import Static
from sim.cli import main
from sim.experiment.cell import make_cell, make_policy
from sim.experiment.run import run_config
from sim.workload.passes import select
from tests.sim.small_trace import SIZE, Plan, config, one_layer
from traces import Trace, open_trace
from traces.kit.errors import UserError

ROOT = Path(__file__).parents[3]
SPLITS = ["train"] * 3 + ["test"] + ["train"] * 4 + ["test"] + ["train"] * 4
TRAIN = [i for i, split in enumerate(SPLITS) if split == "train"]
HELD = [TRAIN[4], TRAIN[9]]
LEARNED = [i for i in TRAIN if i not in HELD]
ROWS = 3


def given(path: Path, *, other: bool = False, splits: list[str | None] = SPLITS) -> Trace:  # type: ignore[assignment]
    """A trace of one layer; ``other``: in which all but the requests to learn from chose other experts."""
    experts = np.random.default_rng(0).integers(0, 4, (len(splits), ROWS))
    if other:
        moved = [i for i in range(len(splits)) if i not in LEARNED]
        experts[moved] = (experts[moved] + 1) % 4
    return one_layer(path, [Plan((1,), ROWS - 1, split=split) for split in splits], list(experts.ravel()))


def test_every_fifth_train_request_is_measured_and_not_learned_from(tmp_path: Path) -> None:
    trace = given(tmp_path / "t")
    chosen = select(trace, measure="validation")
    assert list(chosen.measured) == HELD
    assert list(chosen.train) == LEARNED
    assert select(trace).train == tuple(TRAIN)
    warm = select(trace, measure="validation", warmup=2, seed=1)
    assert list(warm.warmup) == LEARNED[:2]
    assert set(warm.measured) == set(HELD)
    few = given(tmp_path / "few", splits=["train", "test", "train"])
    assert select(few, measure="validation").measured == (2,)
    assert select(few, measure="validation").train == (0,)


def test_samples_of_one_prompt_stay_together() -> None:
    sample = open_trace(ROOT / "traces" / "sample")
    trace = replace(sample, token_ids=np.zeros_like(sample.token_ids))  # prompts of one length are the same
    chosen = select(trace, measure="validation")
    lengths = [{trace.requests[i].prompt_tokens for i in some} for some in (chosen.measured, chosen.train)]
    assert not lengths[0] & lengths[1]
    assert {*chosen.measured, *chosen.train} == {*select(trace).train}
    assert len(chosen.measured) > len(lengths[0]), "some prompts have several samples"


def learned(trace: Trace, monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], list[int]]:
    """What a policy is shown to learn from: the requests, and what it can count in them."""
    shown: list[Any] = []

    def fit(_: Static, history: History) -> None:
        shown.extend(([step.request for step in history.steps()], history.popularity().tolist()))

    monkeypatch.setattr(Static, "fit", fit)
    make_policy(make_cell(replace(config(trace, 2 * SIZE, policy="static"), measure="validation")))
    return shown[0], shown[1]


def test_nothing_of_what_is_measured_is_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests, counted = learned(given(tmp_path / "t"), monkeypatch)
    assert sorted(set(requests)) == LEARNED
    assert learned(given(tmp_path / "o", other=True), monkeypatch) == (requests, counted)


def test_a_leak_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = replace(config(given(tmp_path / "t"), 2 * SIZE, policy="static"), measure="validation")
    monkeypatch.setattr("sim.workload.passes._validation", lambda _, train: (list(train[:2]), train))
    with pytest.raises(RuntimeError, match=r"requests \[0, 1\] are measured, and learned from before"):
        run_config(run, tmp_path / "out")


@pytest.mark.parametrize("splits", [[None] * 6, ["test"] * 3 + ["train"]])
def test_train_requests_are_wanted(tmp_path: Path, splits: list[str | None]) -> None:
    trace = given(tmp_path / "t", splits=splits)
    with pytest.raises(UserError, match=r"measure=validation: .* the trace has [01]; allowed: test, or a trace with"):
        make_cell(replace(config(trace, 2 * SIZE), measure="validation"))


def test_a_predictor_that_was_fitted_on_them_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "policy=promoe", "limit=1", "bounds=false", f"out={tmp_path}"]
    assert main([*words, "measure=validation"]) == 2
    printed = capsys.readouterr().err
    assert "the predictor promoe, which was fitted on the requests that measure=validation measures" in printed
    assert printed.endswith("; allowed: policy.predictor=gate_ahead, or measure=test\n")
    assert main([*words, "measure=validation", "policy.predictor=gate_ahead"]) == 0
    assert main([*words, "measure=test"]) == 0


def test_the_result_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "policy=static", "bounds=false", "limit=2", f"out={tmp_path}"]
    for part in ("test", "validation"):
        assert main([*words, f"measure={part}"]) == 0
    assert "a part of the train split, not learned from, of these the first 2" in capsys.readouterr().out
    runs = sim.load(tmp_path)
    assert sorted(runs["measure"]) == ["test", "validation"]
    assert main(["compare", str(tmp_path), "baseline=static"]) == 2
    assert capsys.readouterr().err.startswith(
        "error: these runs are not alike: measure is test (1 run), validation (1 run)."
    )
    assert main([*words, "measure=train"]) == 2
    assert capsys.readouterr().err == "error: measure='train': allowed: test, validation\n"
