"""Requests served together leave the trace that they leave one by one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.commands import collect as main
from traces import DECODE, PREFILL, Trace, open_trace
from traces.collect.serve import passes
from traces.prompts.jobs import greedy, sampled

PROMPTS = [list(range(10, 30)), [7, 8, 9], list(range(40, 51)), [3]]
NEW = [6, 9, 1, 4]


def alone(model: Any, choose: Any) -> list[list[int]]:
    """The tokens chosen after each prompt, served by itself."""
    result = []
    for index, (prompt, new) in enumerate(zip(PROMPTS, NEW, strict=True)):
        with torch.inference_mode():
            result.append([step.chosen[0] for step in passes(model, [prompt], [choose(index)], [new], ())])
    return result


def together(model: Any, choose: Any, end: Any = ()) -> tuple[list[list[Any]], list[Any]]:
    """The tokens chosen after each prompt, served as one batch; and the passes."""
    picks = [choose(index) for index in range(len(PROMPTS))]
    with torch.inference_mode():
        done = list(passes(model, PROMPTS, picks, NEW, end))
    return [[step.chosen[b] for step in done if step.chosen[b] is not None] for b in range(len(PROMPTS))], done


@pytest.mark.parametrize(
    "choose", [lambda _: greedy, lambda index: sampled(0.9, index, 0.8)], ids=["greedy", "sampled"]
)
def test_a_batch_chooses_what_each_request_chooses_alone(model: Any, choose: Any) -> None:
    assert together(model, choose)[0] == alone(model, choose)


def test_rows_are_real_until_their_request_ends(model: Any) -> None:
    _, done = together(model, lambda _: greedy)
    assert len(done) == max(NEW)
    assert [int(step.real.sum()) for step in done] == [35, 3, 3, 3, 2, 2, 1, 1, 1]
    for row, (prompt, new) in enumerate(zip(PROMPTS, NEW, strict=True)):
        fed = [token for step in done for token in step.ids[row][step.real[row]].tolist()]
        chosen = [step.chosen[row] for step in done[: new - 1]]
        assert fed == prompt + chosen


def test_a_row_ends_with_an_end_token_and_the_others_go_on(model: Any) -> None:
    whole = alone(model, lambda _: greedy)
    end = {whole[1][2]}
    assert whole[1].index(whole[1][2]) < len(whole[1]) - 1
    cut = [tokens[: next((i + 1 for i, t in enumerate(tokens) if t in end), len(tokens))] for tokens in whole]
    assert together(model, lambda _: greedy, end)[0] == cut


@pytest.fixture(scope="module")
def traces(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Trace]:
    """Five prompts of different lengths, recorded one, two, three and eight at a time."""
    home = tmp_path_factory.mktemp("batches")
    lines = ["A first prompt.", "Two", "The third is quite a bit longer than both.", "4", "Und noch einer."]
    prompts = home / "p.txt"
    prompts.write_text("\n".join(lines))
    for batch in (1, 2, 3, 8):
        options = [f"batch={batch}", "max_new_tokens=7", "signals=all", "threads=1", "overhead=0", "device=cpu"]
        main([f"model={saved}", f"prompts={prompts}", f"out={home / str(batch)}", *options])
    return {batch: open_trace(home / str(batch)) for batch in (1, 2, 3, 8)}


@pytest.mark.parametrize("batch", [2, 3, 8])
def test_a_trace_does_not_depend_on_the_batch_but_for_rounding(traces: dict[int, Trace], batch: int) -> None:
    one, many = traces[1], traces[batch]
    assert one.requests == many.requests
    np.testing.assert_array_equal(one.steps, many.steps)
    for name in ("token_ids", "expert_ids", "embedding"):
        np.testing.assert_array_equal(getattr(one, name), getattr(many, name))
    for name in ("expert_weights", "router_probs", "hidden"):
        np.testing.assert_allclose(getattr(one, name), getattr(many, name), rtol=2e-3, atol=2e-3)
    assert many.manifest.decoding["batch"] == batch


def test_each_request_has_steps_of_its_own(traces: dict[int, Trace]) -> None:
    trace = traces[3]
    for request in trace.requests:
        steps = trace.steps[trace.steps["request"] == request.request]
        assert steps["phase"].tolist() == [PREFILL] + [DECODE] * (request.output_tokens - 1)
        assert steps["rows"].tolist() == [request.prompt_tokens] + [1] * (request.output_tokens - 1)
        assert steps["context"].tolist() == [0, *range(request.prompt_tokens, request.prompt_tokens + len(steps) - 1)]
