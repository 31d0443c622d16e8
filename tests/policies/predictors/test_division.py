"""What ProMoE's predictors learn from: train requests alone, and none with a prompt that is tested."""

from pathlib import Path

import numpy as np
import pytest

from policies.predictors.examples import divide, prompt_keys, rows_of
from policies.predictors.saved import Fitted
from policies.promoe.fit import MLP
from tests.policies.predictors.traces import PROMPT, ROWS, SPLITS, draw, fit, write
from traces import Trace, UserError

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
