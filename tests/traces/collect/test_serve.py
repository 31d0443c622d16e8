"""A batch generates what the library generates, and leaves the trace that its requests leave one by one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.commands import collect as main
from tests.traces.conftest import FAMILIES
from tests.traces.models.tiny import minimax, tiny
from traces import DECODE, PREFILL, Trace, open_trace
from traces.collect.serve import passes
from traces.models.families import known
from traces.prompts.jobs import greedy, sampled

PROMPTS = [list(range(10, 30)), [7, 8, 9], list(range(40, 51)), [3]]
NEW = [6, 9, 1, 4]


def run(model: Any, choose: Any, prompts: Any = PROMPTS, new: Any = NEW, end: Any = ()) -> tuple[list[list[Any]], Any]:
    """The tokens chosen after each prompt, served as one batch; and the passes. `choose` is told a prompt's index."""
    with torch.inference_mode():
        done = list(passes(model, prompts, [choose(index) for index in range(len(prompts))], new, end))
    return [[step.chosen[b] for step in done if step.chosen[b] is not None] for b in range(len(prompts))], done


def alone(model: Any, choose: Any) -> list[list[int]]:
    """The tokens chosen after each prompt, served by itself."""
    singles = enumerate(zip(PROMPTS, NEW, strict=True))
    return [run(model, lambda _, i=i: choose(i), [prompt], [new])[0][0] for i, (prompt, new) in singles]


def most_likely(_index: int) -> Any:
    return greedy


def first(model: Any, new: int, choose: Any = most_likely, end: Any = ()) -> list[int]:
    """The tokens chosen after the first prompt."""
    return run(model, choose, PROMPTS[:1], [new], end)[0][0]


def test_a_batch_chooses_what_each_request_chooses_alone(model: Any, family: str) -> None:
    """Greedily or sampled, in turn."""
    choose: Any = (most_likely, lambda index: sampled(0.9, index, 0.8))[FAMILIES.index(family) % 2]
    assert run(model, choose)[0] == alone(model, choose)


def test_rows_are_real_until_their_request_ends(model: Any) -> None:
    _, done = run(model, most_likely)
    assert len(done) == max(NEW)
    assert [int(step.real.sum()) for step in done] == [35, 3, 3, 3, 2, 2, 1, 1, 1]
    for row, (prompt, new) in enumerate(zip(PROMPTS, NEW, strict=True)):
        fed = [token for step in done for token in step.ids[row][step.real[row]].tolist()]
        chosen = [step.chosen[row] for step in done[: new - 1]]
        assert fed == prompt + chosen


def test_a_row_ends_with_an_end_token_and_the_others_go_on(model: Any) -> None:
    whole = alone(model, most_likely)
    end = {whole[1][2]}
    assert whole[1].index(whole[1][2]) < len(whole[1]) - 1
    cut = [tokens[: next((i + 1 for i, t in enumerate(tokens) if t in end), len(tokens))] for tokens in whole]
    assert run(model, most_likely, end=end)[0] == cut


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


def test_greedy_tokens_equal_plain_generate(any_model: Any) -> None:
    tokens = first(any_model, 12, end={any_model.config.eos_token_id})
    prompt = torch.tensor(PROMPTS[:1])
    expected = any_model.generate(prompt, attention_mask=torch.ones(1, 20), max_new_tokens=12, do_sample=False)
    assert tokens == expected[0, 20:].tolist()


def test_a_low_temperature_is_greedy(model: Any) -> None:
    assert first(model, 8, lambda _: sampled(1e-6, 0)) == first(model, 8)


def test_positions_are_given_where_a_cache_cannot_tell_them() -> None:
    model, text = minimax(), list(PROMPTS[0])
    with torch.inference_mode():
        for _ in range(6):
            text.append(int(model(input_ids=torch.tensor([text]), use_cache=False).logits[0, -1].argmax()))
    assert first(model, 6) == text[20:]


def test_every_pass_says_where_its_tokens_are() -> None:
    model, given = tiny("gpt_oss"), list[Any]()
    model.register_forward_pre_hook(lambda _model, _args, kwargs: given.append(kwargs), with_kwargs=True)
    first(model, 3)
    assert [kwargs["position_ids"].tolist() for kwargs in given] == [[list(range(20))], [[20]], [[21]]]
    assert all("attention_mask" not in kwargs for kwargs in given), "nothing is padded"


def test_a_forward_without_such_a_keyword_is_not_given_it() -> None:
    class Plain(torch.nn.Module):
        def forward(self, input_ids: Any, attention_mask: Any = None) -> None: ...

    given = {"position_ids": 1, "attention_mask": 2, "logits_to_keep": 3}
    assert known(Plain(), **given) == {"attention_mask": 2}
    assert known(tiny("olmoe"), **given) == given
