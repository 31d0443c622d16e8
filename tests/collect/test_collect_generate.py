"""The passes generate what the library generates, and each is one step of the trace."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the collector needs the extra 'hf'")
pytest.importorskip("transformers", reason="the collector needs the extra 'hf'")

from traces.collect.generate import forced, greedy, passes, sampled  # noqa: E402

PROMPT = list(range(10, 30))


def run(model: Any, choose: Any, new_tokens: int, end: Any = ()) -> tuple[list[list[int]], list[int]]:
    with torch.inference_mode():
        done = list(passes(model, [PROMPT], [choose], [new_tokens], end))
    return [step.ids[0].tolist() for step in done], [int(step.chosen[0]) for step in done]


def test_greedy_tokens_equal_plain_generate(model: Any) -> None:
    _, tokens = run(model, greedy, 12, end={model.config.eos_token_id})
    expected = model.generate(
        torch.tensor([PROMPT]), attention_mask=torch.ones(1, 20), max_new_tokens=12, do_sample=False
    )
    assert tokens == expected[0, 20:].tolist()


def test_every_chosen_token_but_the_last_is_fed_back(model: Any) -> None:
    fed, tokens = run(model, greedy, 6)
    assert fed == [PROMPT, *([token] for token in tokens[:-1])]


def test_generation_ends_with_an_end_token(model: Any) -> None:
    _, tokens = run(model, greedy, 6)
    _, stopped = run(model, greedy, 6, end={tokens[2]})
    assert stopped == tokens[: tokens.index(tokens[2]) + 1]


def test_sampling_follows_its_seed(model: Any) -> None:
    first, again, other = (run(model, sampled(1.0, seed), 10)[1] for seed in (1, 1, 2))
    assert first == again != other


def test_a_low_temperature_is_greedy(model: Any) -> None:
    assert run(model, sampled(1e-6, 0), 8)[1] == run(model, greedy, 8)[1]


def test_forced_tokens_are_fed_whatever_the_model_says(model: Any) -> None:
    fed, tokens = run(model, forced([7, 8, 9]), 3)
    assert tokens == [7, 8, 9]
    assert fed[1:] == [[7], [8]]
