"""`python -m real quality` as a person uses it, and what it refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.commands import quality as main
from tests.real.quality.cases import TEXTS, prompts, save_with_tokenizer, tiny
from traces.kit.errors import UserError

SAMPLE = Path(__file__).resolve().parents[3] / "traces" / "sample"
LOSSY = ("policy=swapmoe_uniform", "policy.least=2", "workload.batch=2")
TRAINED = {**TEXTS, "what is learned from": "train", "and a little more of it": "train"}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """model= and prompts= of a tiny OLMoE."""
    folder = tmp_path_factory.mktemp("models")
    saved = save_with_tokenizer(tiny("olmoe"), folder / "tiny-olmoe")
    return f"model={saved}", f"prompts={prompts(folder / 'texts.jsonl', TRAINED)}"


def test_any_checkpoint_on_a_file_of_texts(given: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*given, *LOSSY, "max_prompt_tokens=5", "max_new_tokens=7", f"out={tmp_path / 'out'}"]
    assert main([*words, "budget=40%,80%", "format=json"]) == 0
    low, high = documents = json.loads(capsys.readouterr().out)
    assert sorted(
        json.loads(path.read_text())["memory"]["budget_bytes"] for path in tmp_path.glob("out/*/quality.json")
    ) == [document["memory"]["budget_bytes"] for document in documents]
    for document in documents:
        measured = document["measured"]
        # 3 test texts: of each 5 tokens are prefilled and 6 fed back, and the last has no next one.
        assert (measured["tokens"], measured["targets"], measured["prefill"]["tokens"]) == (33, 30, 15)
        assert measured["perplexity_full"] == low["measured"]["perplexity_full"]
        assert measured["kl_nats"] > 0
        assert document["first_order"]["simulator"]["first_order"] is True
        assert document["nulls"] == {}
        assert document["provenance"]["text"]["continuation"] == "the text's own"
        assert document["provenance"]["model"] == {"name": "tiny-olmoe", "revision": None, "dtype": "float32"}
    assert low["measured"]["kl_nats"] > high["measured"]["kl_nats"]
    for where in ("simulator", "device"):
        assert 0 < low["first_order"][where]["kept_gate_mass"] < high["first_order"][where]["kept_gate_mass"] < 1
    assert not list(tmp_path.glob("out/*.partial"))


def test_the_table(given: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*given, "policy=lru", "budget=40%", "max_prompt_tokens=5", "max_new_tokens=3", f"out={tmp_path}"]
    assert main(words) == 0
    out, err = capsys.readouterr()
    head, row = out.splitlines()[-3:-1]
    assert head.split()[:3] == ["lru", "perplexity", "KL"]
    assert row.split()[3:] == ["0.0000", "0.00", "100.0", *["-", "/", "-"] * 3]  # nothing is lost, nothing is stated
    assert "3 requests, 21 tokens (15 of prompts); what follows a prompt is the text's own" in out
    assert "written to" in err


@pytest.mark.ci
def test_lower_precisions_beside_a_model_that_is_all_in_one(given: Any, tmp_path: Path, capsys: Any) -> None:
    own = ("policy=hobbit", "policy.thresholds=0.3/0.7", "policy.weights=1/0/0/0", "budget=40%")
    words = [*given, *own, "uniform=int8,int4", "max_prompt_tokens=5", "max_new_tokens=7", f"out={tmp_path}"]
    assert main([*words, "format=json"]) == 0
    mixed, high, low = json.loads(capsys.readouterr().out)
    assert [each["policy"]["facts"].get("uniform") for each in (mixed, high, low)] == [None, "int8", "int4"]
    assert 0 < high["measured"]["kl_nats"] < low["measured"]["kl_nats"]
    assert mixed["measured"]["kl_nats"] > 0
    for where in ("simulator", "device"):
        assert low["first_order"][where]["low_precision"] == 1
        assert 0 < mixed["first_order"][where]["low_precision"] < 1
        assert 0 < mixed["first_order"][where]["skipped"] < 1
    said = mixed["versions"]["by_dtype"]
    assert list(said) == ["float32", "int4"]
    # gate and up [24, 32], down [32, 24]: half a byte each, and 2.5 bytes for each output, shorter than a group
    sizes = {"float32": 3 * 24 * 32 * 4, "int4": 3 * 24 * 32 // 2 + (2 * 24 + 32) * 5 // 2}
    assert {dtype: its["copied_bytes"] for dtype, its in said.items()} == {
        dtype: sizes[dtype] * its["loads"] for dtype, its in said.items()
    }
    assert mixed["memory"]["peak_bytes"] <= mixed["memory"]["budget_bytes"]
    assert low["memory"]["budget_bytes"] == 4 * 8 * sizes["int4"]
    with pytest.raises(UserError, match=r"uniform=int3: allowed: bfloat16, float16, int8, int4, int2, which are small"):
        main([*given, *own, "uniform=int3"])


@pytest.mark.ci
def test_the_sample_is_the_default_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["policy=swapmoe_uniform", "budget=25%", "limit=1", "format=json", f"out={tmp_path}"]
    assert main(words) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["provenance"]["device"]["experts"] == "exact"
    text = document["provenance"]["text"]
    assert (text["prompts"], text["split"], text["requests"]) == ("prompts.jsonl", "test", 1)
    assert text["continuation"] == "generated by the full model"
    simulated, device = (document["first_order"][where] for where in ("simulator", "device"))
    # The first layer is routed alike; the later ones are not, which a replay cannot see.
    assert 0 < abs(simulated["kept_gate_mass"] - device["kept_gate_mass"]) < 0.1
    assert document["measured"]["kl_nats"] > 0.1


def test_what_the_simulator_read_that_nobody_recorded_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace"
    shutil.copytree(SAMPLE, trace, ignore=shutil.ignore_patterns("predicted"))
    about = json.loads((trace / "trace.json").read_text())
    (trace / "trace.json").write_text(json.dumps(about | {"modelled": {"gate_ahead": {"recall": [0.9]}}}))
    given = [f"trace={trace}", "policy=gate_ahead", "budget=25%", "limit=1", f"out={tmp_path}"]
    assert main(given) == 0
    (path,) = tmp_path.glob("*/quality.json")
    assert json.loads(path.read_text())["provenance"]["modelled"] == {"gate_ahead": {"recall": [0.9]}}
    assert "modelled, not recorded: gate_ahead (recall 0.9) of gate_ahead" in " ".join(capsys.readouterr().out.split())


def test_a_trace_of_another_model_is_refused(given: Any, tmp_path: Path) -> None:
    model, texts = given
    with pytest.raises(UserError, match=r"was recorded from tiny-moe, and model=tiny-olmoe"):
        main([model, "policy=lru", "budget=50%", f"out={tmp_path}"])
    with pytest.raises(UserError, match=r"not beside prompts="):
        main([model, texts, "trace=elsewhere", "policy=lru", f"out={tmp_path}"])
    with pytest.raises(UserError, match=r"lower max_prompt_tokens"):
        main([model, texts, "max_prompt_tokens=99", "policy=lru", f"out={tmp_path}"])
