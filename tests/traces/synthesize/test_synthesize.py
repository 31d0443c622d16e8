"""Traces drawn from figures have these figures, are the same for the same words, and say what they are."""

from pathlib import Path

import numpy as np
import pytest

from traces import open_trace
from traces.cli import main
from traces.synthesize.figures import read_figures
from traces.synthesize.measure import measure

LONG = ("model=tiny-moe", "prompt=80", "signals=none")


def synthesize(out: Path, *words: str) -> Path:
    assert main(["synthesize", f"out={out}", *words]) == 0
    return out


def normal_entropy(popularity: np.ndarray, top_k: int) -> np.ndarray:
    share = popularity / popularity.sum(axis=1, keepdims=True)
    return -(share * np.log2(np.maximum(share, 1e-300))).sum(axis=1) / np.log2(popularity.shape[1])


def chosen(folder: Path) -> np.ndarray:
    trace = open_trace(folder, "shape")
    return np.stack([np.bincount(trace.expert_ids[:, layer].ravel(), minlength=trace.E) for layer in range(trace.L)])


@pytest.mark.ci
@pytest.mark.parametrize(("name", "requests"), [("tiny-moe", 200), ("gpt_oss_20b", 48)])  # some 20,000 tokens each
def test_a_trace_has_the_figures_that_it_was_drawn_from(name: str, requests: int, tmp_path: Path) -> None:
    wanted = read_figures(name)
    folder = synthesize(
        tmp_path / "t", f"model={name}", f"requests={requests}", "signals=expert_weights,gate_ahead", "recall=.87,.7"
    )
    found = measure(open_trace(folder), "again")
    for lag in range(6):
        mean = [np.nanmean([row[lag] for row in figures.overlap]) for figures in (wanted, found)]
        assert mean[1] == pytest.approx(mean[0], rel=0.05)
    apart = [normal_entropy(np.array(figures.popularity), wanted.top_k) for figures in (wanted, found)]
    assert apart[1].mean() == pytest.approx(apart[0].mean(), rel=0.05)
    assert found.gate_recall == pytest.approx((0.87, 0.7), abs=0.01)
    assert found.top_weight == pytest.approx(wanted.top_weight, abs=0.03)
    assert found.prompt_rows == wanted.prompt_rows
    assert found.output_tokens[5] == pytest.approx(wanted.output_tokens[5], rel=0.2)


def test_the_same_words_make_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    words = ("model=tiny-moe", "requests=4", "prompt=8-20", "output=5")
    same = [synthesize(tmp_path / name, *words) for name in "ab"]
    other = synthesize(tmp_path / "c", *words, "seed=1")
    contents = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in (*same, other)]
    assert contents[0] == contents[1]
    assert all(contents[0][name] != contents[2][name] for name in contents[0] if name.endswith("ids.npy"))


def test_more_requests_do_not_change_the_first(tmp_path: Path) -> None:
    words = ("model=tiny-moe", "prompt=10", "output=6", "signals=none")
    few, many = (synthesize(tmp_path / str(n), *words, f"requests={n}") for n in (2, 5))
    rows = 2 * 15
    assert (open_trace(few).expert_ids[:] == open_trace(many).expert_ids[:rows]).all()


def test_scores_agree_with_the_ids_and_weights(tmp_path: Path) -> None:
    trace = open_trace(synthesize(tmp_path / "t", "model=mixtral_8x7b", "like=gpt_oss_20b", "requests=3", "output=40"))
    assert (trace.L, trace.E, trace.K) == (32, 8, 2)
    probs, ids, weights = (
        np.asarray(array).astype(float) for array in (trace.router_probs, trace.expert_ids, trace.expert_weights)
    )
    of_chosen = np.take_along_axis(probs, ids.astype(int), axis=2)
    assert probs.sum(axis=2) == pytest.approx(1, abs=0.01)
    assert (of_chosen[..., -1] == np.sort(probs, axis=2)[..., -2]).all()
    assert of_chosen / of_chosen.sum(axis=2, keepdims=True) == pytest.approx(weights, abs=0.01)
    assert (np.diff(weights, axis=2) <= 0).all()


@pytest.mark.ci
@pytest.mark.parametrize(
    ("word", "wanted"), [("overlap=.5", 0.5), ("overlap=3x", 0.375), ("overlap=1.6x", 0.2), ("overlap=.8", 0.8)]
)
def test_an_overlap_that_is_stated(word: str, wanted: float, tmp_path: Path) -> None:
    folder = synthesize(tmp_path / "t", "model=tiny-moe", "requests=24", "prompt=80", "output=80", "signals=none", word)
    found = measure(open_trace(folder), "again")
    assert np.mean([row[0] for row in found.overlap]) == pytest.approx(wanted, rel=0.05)


@pytest.mark.ci
def test_what_the_law_does_not_reach_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = synthesize(tmp_path / "t", *LONG, "requests=4", "output=10", "together=.99")
    assert "warning: together=0.99: what is drawn has 0." in capsys.readouterr().err
    about = open_trace(folder).manifest.modelled["expert_ids"]
    assert about["together"] == 0.99 > about["together_drawn"]


def test_an_entropy_that_is_stated(tmp_path: Path) -> None:
    folder = synthesize(
        tmp_path / "t", "model=tiny-moe", "requests=64", "prompt=80", "output=2", "signals=none", "entropy=.9"
    )
    assert normal_entropy(chosen(folder), 8).mean() == pytest.approx(0.9, rel=0.03)


@pytest.mark.ci
def test_requests_of_one_topic_are_alike(tmp_path: Path) -> None:
    folder = synthesize(tmp_path / "t", "model=tiny-moe", "requests=40", "topics=4", "signals=embedding")
    found = measure(open_trace(folder), "again")
    wanted = read_figures("tiny-moe")
    apart = np.mean([row @ row for row in chosen(folder) / open_trace(folder).N]) / 8
    assert found.topics == 4
    assert np.mean(found.kinship) > apart * 1.15
    assert np.mean(found.kinship) == pytest.approx(np.mean(wanted.kinship), rel=0.2)


def test_lengths_and_arrivals_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    lines = ["2023-11-16 18:15:46.0,12,4", "2023-11-16 18:15:47.5,30,0", "2023-11-16 18:15:48.0,7,9"]
    log.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(lines) + "\n")
    trace = open_trace(synthesize(tmp_path / "t", "model=tiny-moe", "requests=2", f"lengths={log}", "signals=none"))
    assert [(r.prompt_tokens, r.output_tokens, r.arrival_s) for r in trace.requests] == [(12, 4, 0.0), (7, 9, 2.0)]


def test_requests_of_a_log_that_would_have_no_row_are_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.csv"
    lines = ["2023-11-16 18:15:46.0,12,1", "2023-11-16 18:15:47.5,30,2", "2023-11-16 18:15:48.0,7,9"]
    log.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(lines) + "\n")
    words = ("model=tiny-moe", f"lengths={log}", "signals=none")
    trace = open_trace(synthesize(tmp_path / "decode", *words, "requests=2", "prefill=false"))
    assert [(r.prompt_tokens, r.output_tokens, r.arrival_s) for r in trace.requests] == [(30, 2, 0.0), (7, 9, 0.5)]
    every = open_trace(synthesize(tmp_path / "all", *words, "requests=3"))
    assert [r.output_tokens for r in every.requests] == [1, 2, 9]
    assert main(["synthesize", f"out={tmp_path / 'few'}", *words, "requests=3", "prefill=false"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.endswith("requests with a prompt and an output of 2 or more is 2; allowed: at least 3")


def test_a_trace_says_what_is_modelled_and_how(tmp_path: Path) -> None:
    words = ("model=tiny-moe", "requests=2", "prompt=4", "output=3", "recall=.9", "overlap=.3", "seed=7")
    manifest = open_trace(synthesize(tmp_path / "t", *words)).manifest
    assert manifest.recording == "synthetic"
    assert manifest.priced_as == "tiny-moe"
    assert set(manifest.modelled) == {"expert_ids", "expert_weights", "router_probs", "gate_ahead", "embedding"}
    assert manifest.modelled["expert_ids"]["overlap"] == 0.3
    assert manifest.modelled["expert_ids"]["figures"] == "tiny-moe"
    assert manifest.modelled["gate_ahead"] == {"recall": [0.9], "seed": 7}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("overlap=.05", "overlap=0.05: cannot be of top-8 of 64 with this popularity; allowed: 0.1"),
        ("overlap=9x", "overlap=1.125: cannot be of top-8 of 64"),
        ("overlap=x", "overlap=x: allowed: a share from 0 to 1, or so many times"),
        ("entropy=.1", "entropy=0.1: cannot be with top-8 of 64; allowed: 0.5"),
        ("recall=1.2", "recall=1.2: allowed: shares from 0 to 1"),
        (f"recall={','.join(['.5'] * 16)}", "16 layers ahead; allowed: up to 15 for 16 layers"),
        ("like=nothing", "like=nothing: no such figures; allowed: "),
        ("model=nothing", "model=nothing: no such model; allowed: "),
        ("signals=hidden", "signals=hidden: allowed: none, or some of expert_weights, router_probs"),
        ("prefill=false output=1", "output=1: without routing of prompts it is one token less; allowed: 2 or more"),
        ("prefill=false output=1-4", "output=1-4: without routing of prompts"),
        ("prompt=9-3", "prompt=9-3: allowed: tokens, such as 200"),
        ("requests=0", "requests=0: allowed: a whole number, 1 to"),
    ],
)
def test_what_cannot_be_is_one_line(words: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = [] if words.startswith("model=") else ["model=tiny-moe"]
    assert main(["synthesize", f"out={tmp_path / 't'}", *model, *words.split()]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
