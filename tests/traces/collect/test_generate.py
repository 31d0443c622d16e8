"""The passes generate what the library generates, and each is one step of the trace."""

from typing import Any

import torch

from tests.traces.models.tiny import SIZES, build, tiny
from traces.collect.serve import passes
from traces.models.cache import known
from traces.prompts.jobs import forced, greedy, sampled

PROMPT = list(range(10, 30))


def run(model: Any, choose: Any, new_tokens: int, end: Any = ()) -> tuple[list[list[int]], list[int]]:
    with torch.inference_mode():
        done = list(passes(model, [PROMPT], [choose], [new_tokens], end))
    return [step.ids[0].tolist() for step in done], [int(step.chosen[0]) for step in done]


def test_greedy_tokens_equal_plain_generate(any_model: Any) -> None:
    _, tokens = run(any_model, greedy, 12, end={any_model.config.eos_token_id})
    expected = any_model.generate(
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


HYBRID = {"num_local_experts": 8, "head_dim": 8, "layer_types": ["linear_attention", "full_attention"] * 2}


def test_positions_are_given_where_a_cache_cannot_tell_them() -> None:
    """MiniMax's first layer is linear attention, which keeps no keys: its cache says that it holds 0 tokens."""
    model = build("minimax", **SIZES | HYBRID)
    _, made = run(model, greedy, 6)
    text = list(PROMPT)
    with torch.inference_mode():
        for _ in range(6):
            text.append(int(model(input_ids=torch.tensor([text]), use_cache=False).logits[0, -1].argmax()))
    assert made == text[len(PROMPT) :]


def test_every_pass_says_where_its_tokens_are() -> None:
    model, given = tiny("gpt_oss"), list[Any]()
    model.register_forward_pre_hook(lambda _model, _args, kwargs: given.append(kwargs), with_kwargs=True)
    run(model, greedy, 3)
    assert [kwargs["position_ids"].tolist() for kwargs in given] == [[list(range(20))], [[20]], [[21]]]
    assert all("attention_mask" not in kwargs for kwargs in given), "nothing is padded"


def test_a_forward_without_such_a_keyword_is_not_given_it() -> None:
    class Plain(torch.nn.Module):
        def forward(self, input_ids: Any, attention_mask: Any = None) -> None: ...

    given = {"position_ids": 1, "attention_mask": 2, "logits_to_keep": 3}
    assert known(Plain(), **given) == {"attention_mask": 2}
    assert known(tiny("olmoe"), **given) == given
