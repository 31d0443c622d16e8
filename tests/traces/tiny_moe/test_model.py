"""The shipped model and its sample trace: small, of known origin, made for each other, and learned."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.commands import collect as main
from traces import DECODE, PREFILL, Trace, open_trace
from traces.kit.conf import MODEL_DIR, PROMPTS_FILE, SAMPLE_DIR
from traces.models.load import load, weights_digest
from traces.tiny_moe.evaluate import shared
from traces.tiny_moe.export import compact

MIB = 1 << 20
UNIFORM = 8 / 64


@pytest.fixture(scope="module")
def sample() -> Trace:
    return open_trace(SAMPLE_DIR)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """The sample's first prompts, recorded here: the prompt and one more token."""
    out = tmp_path_factory.mktemp("fresh") / "trace"
    settings = ("max_prompt_tokens=800", "limit=8", "dtype=float32", "threads=1", "device=cpu")
    lines = [json.loads(line) | {"max_new_tokens": 1} for line in PROMPTS_FILE.read_text().splitlines()]
    prompts = out.with_name("prompts.jsonl")
    prompts.write_text("\n".join(map(json.dumps, lines)))
    main(["model=tiny-moe", f"prompts={prompts}", f"out={out}", *settings])
    return open_trace(out)


def overlap(trace: Trace) -> float:
    """The share of experts that a token has in common with the one before it."""
    ends = np.cumsum([request.prompt_tokens + request.output_tokens - 1 for request in trace.requests])[:-1]
    each = np.split(np.asarray(trace.expert_ids), ends)
    return float(np.mean([shared(ids[1:], ids[:-1]).mean() for ids in each]))


def test_the_model_is_small_and_holds_no_pickle() -> None:
    files = list(MODEL_DIR.iterdir())
    assert sum(file.stat().st_size for file in files) <= 30 * MIB
    for file in (MODEL_DIR / "tokenizer.json", MODEL_DIR / "model.safetensors.index.json"):
        text = file.read_text(encoding="utf-8")
        assert text == compact(text), "white space is most of it"
    assert max(file.stat().st_size for file in files) <= 16 * MIB
    assert {file.suffix for file in files} == {".json", ".safetensors"}


def test_its_origin_is_stated() -> None:
    record = json.loads((MODEL_DIR / "provenance.json").read_text())
    assert record["weights"] == weights_digest(MODEL_DIR)
    assert record["tokens_trained"] > 1_000_000
    assert len(record["text"]) >= 6
    for source in record["text"].values():
        assert source["licence"]
        assert source["version"]
        assert source["tokens"]["train"] > source["tokens"]["heldout"] > 0


def test_it_has_the_routing_of_olmoe_and_has_learned_its_text() -> None:
    loaded = load("tiny-moe", "float32", "cpu")
    config = loaded.model.config
    assert (config.num_hidden_layers, config.num_local_experts, config.num_experts_per_tok) == (16, 64, 8)
    lines = [json.loads(line)["prompt"] for line in PROMPTS_FILE.read_text().splitlines()[:8]]
    with torch.inference_mode():
        ids = [loaded.tokenizer(line, return_tensors="pt")["input_ids"] for line in lines]
        losses = [loaded.model(input_ids=row, labels=row).loss.item() for row in ids]
    assert np.mean(losses) < 0.8 * np.log(4096)


def test_its_routing_is_learned_and_uneven(fresh: Trace, sample: Trace) -> None:
    assert overlap(fresh) > 1.5 * UNIFORM
    assert overlap(sample) > 2 * UNIFORM
    loads = np.stack(
        [np.bincount(layer.ravel(), minlength=64) for layer in np.asarray(sample.expert_ids).swapaxes(0, 1)]
    )
    shares = loads / loads.sum(1, keepdims=True)
    assert (loads > 0).all(), "no expert is dead"
    assert -(shares * np.log(shares)).sum(1).mean() / np.log(64) < 0.98


def test_the_sample_was_recorded_from_it(fresh: Trace, sample: Trace) -> None:
    assert sample.manifest.model.name == "tiny-moe"
    assert sample.manifest.model.revision == weights_digest(MODEL_DIR)
    for here, there in zip(fresh.requests, sample.requests, strict=False):
        assert (here.prompt_tokens, here.source) == (there.prompt_tokens, there.source)
        a, b = (prefill(trace, here.request) for trace in (fresh, sample))
        # Another processor may break a near-tie the other way.
        assert shared(a, b).mean() > 0.98


def prefill(trace: Trace, request: int) -> Any:
    step = trace.steps[(trace.steps["request"] == request) & (trace.steps["phase"] == PREFILL)][0]
    return np.asarray(trace.expert_ids[step["first_row"] : step["first_row"] + step["rows"]])


def test_the_sample_is_small_and_varied(sample: Trace) -> None:
    assert sum(file.stat().st_size for file in Path(SAMPLE_DIR).iterdir()) <= 22 * MIB
    tested = [request for request in sample.requests if request.split == "test"]
    assert len(tested) >= 48
    assert len({request.source for request in tested}) >= 8
    assert len(sample.requests) - len(tested) >= 24, "to learn from"
    lengths = [request.prompt_tokens for request in sample.requests]
    assert min(lengths) == 20
    assert 750 < max(lengths) <= 800
    assert set(sample.steps["phase"].tolist()) == {PREFILL, DECODE}
    assert len(set(lengths)) > 20
    assert sample.manifest.priced_as == "olmoe_1b_7b"
    assert sample.hidden is None
    for signal in ("expert_weights", "router_probs", "gate_ahead", "embedding", "token_ids"):
        assert getattr(sample, signal) is not None


def test_the_sample_does_not_repeat_itself(sample: Trace) -> None:
    """Degenerate text repeats a few tokens, and would make any cache look good."""
    decoded = sample.steps[sample.steps["phase"] == DECODE]
    tokens = np.asarray(sample.token_ids)[decoded["first_row"]]
    for request in range(len(sample.requests)):
        own = tokens[decoded["request"] == request]
        assert len(own) < 16 or len(np.unique(own)) > len(own) / 4
