"""What is asked: chats and their system turn, what is cut, and whether the context has room."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from real.run.asked import Asked, jobs_of
from real.run.context import cache_bytes, check_context
from real.run.serving import Model
from real.run.words import Generation
from real.runtime.engine import Engine
from real.runtime.host import Host
from real.runtime.models import Where
from tests.real.run.cases import bytewise, loaded, offloaded, stream
from tests.real.runtime.test_more_families import REFUSED
from tests.traces.models.tiny import FAMILIES, MORE, there, tiny
from traces.kit.errors import UserError

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[a]{% endif %}"
)
CHAT = ({"role": "system", "content": "own"}, {"role": "user", "content": "Hi"})


def templated(template: str = TEMPLATE) -> Any:
    tokenizer = deepcopy(bytewise())
    tokenizer.chat_template = template
    return tokenizer


def prompts(given: Any, tokenizer: Any, **how: Any) -> list[str]:
    jobs, _ = jobs_of(Asked.of_texts(given, "prompts"), Generation(**how), loaded(tiny("olmoe"), tokenizer), 0)
    return [bytewise().decode(job.ids) for job in jobs]


def test_a_text_is_a_user_s_turn_after_the_system_s() -> None:
    assert prompts(["Hi"], templated(), chat=True) == ["[user]Hi[a]"]
    assert prompts(["Hi", CHAT], templated(), chat=True, system="S") == [
        "[system]S[user]Hi[a]",
        "[system]own[user]Hi[a]",
    ]
    assert prompts(["Hi"], templated()) == ["Hi"]
    assert prompts([CHAT, CHAT[1:]], templated()) == ["[system]own[user]Hi[a]", "[user]Hi[a]"]


def test_a_chat_needs_a_template_that_takes_it() -> None:
    with pytest.raises(UserError, match="chat=true: the tokenizer of tiny has no chat template; allowed: chat=false"):
        prompts(["Hi"], bytewise(), chat=True)
    refusing = templated("{{ raise_exception('no system turns') }}")
    for given, how, allowed in (
        ("Hi", {"chat": True}, "chat=false"),
        ("Hi", {"chat": True, "system": "S"}, "no system=, or chat=false"),
        (CHAT, {"chat": True}, "other turns"),
        (CHAT, {}, "other turns"),
    ):
        said = r"^prompts: the tokenizer's chat template refuses it \(no system turns\); allowed: "
        with pytest.raises(UserError, match=f"{said}{allowed}$"):
            prompts([given], refusing, **how)


def test_what_is_cut_is_told() -> None:
    asked = Asked.of_texts(["abcdef", "abc"], "prompts")
    jobs, notes = jobs_of(asked, Generation(max_prompt_tokens=3), loaded(tiny("olmoe")), 0)
    assert [bytewise().decode(job.ids) for job in jobs] == ["abc", "abc"]
    assert notes == ["prompts, number 0: cut to 3 of 6 tokens (max_prompt_tokens=3)"]


def test_chats_of_a_file_go_on_where_the_assistant_was_to_answer(tmp_path: Path) -> None:
    answered = [*CHAT, {"role": "assistant", "content": "Hello"}]
    lines = [{"messages": answered}, {"messages": answered[2:]}, {"prompt": "Hi", "max_new_tokens": 2}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    asked = Asked.of_file(tmp_path / "p.jsonl", 0)
    jobs, notes = jobs_of(asked, Generation(), loaded(tiny("olmoe"), templated()), 0)
    assert notes == ["skipped 1 chats in which no user speaks before the answer"]
    assert [bytewise().decode(job.ids) for job in jobs] == ["[system]own[user]Hi[a]", "Hi"]
    assert [job.new_tokens for job in jobs] == [64, 2]


@pytest.mark.parametrize("name", sorted((FAMILIES | MORE).keys() - REFUSED.keys()))
def test_a_cache_is_as_large_as_was_said(name: str) -> None:
    """Compressed keys, sliding windows, layers of several sizes: for each token the same."""
    model = offloaded(tiny(there(name))).offloaded
    said = model.kv_bytes_per_token()
    engine = Engine(model.model, torch.device("cpu"))
    with torch.inference_mode(), model._computed_by(lambda module, hidden, ids, weights: torch.zeros_like(hidden)):
        engine.prefill(0, list(range(1, 30)))
        engine.decode((0,), (5,))
    engine._part()
    held = [tensor.nbytes for layer in engine._own[0].layers for tensor in (layer.keys, layer.values)]
    assert sum(held) == engine.cache_bytes(0) == 30 * said > 0


def test_the_context_has_room_to_the_byte_or_not() -> None:
    model = offloaded(tiny("olmoe")).offloaded
    budget, tokens = 1000, [40, 70, 10]
    for batch, rows in ((1, 1), (2, 4), (8, 6)):  # two caches at the moment in which a batch is joined
        need = cache_bytes(model, tokens, batch)
        assert need == model.kv_bytes_per_token() * 70 * rows
        there = budget + need + model.store.nbytes
        check_context(model, budget, tokens, batch, Host(there))
        with pytest.raises(UserError, match=r"beside .* of experts: .*allowed: up to 69 tokens"):
            check_context(model, budget, tokens, batch, Host(there - 1))
    with pytest.raises(UserError, match="allowed: up to 0 tokens"):
        check_context(model, budget, tokens, 1, Host(model.store.nbytes))
    everything = 2 * model.store.nbytes + cache_bytes(model, tokens, 1)
    check_context(model, 10**15, tokens, 1, Host(everything))  # no more slots than experts
    with pytest.raises(UserError, match="max_new_tokens=: "):
        check_context(model, 10**15, tokens, 1, Host(everything - 1))


def test_a_run_without_room_for_its_context_does_not_begin() -> None:
    """What is free is asked for, and the model's own window as well."""
    made = offloaded(tiny("olmoe"))
    small = Model(made.loaded, made.offloaded, Where("cpu", made.offloaded.store.nbytes + 20_000))
    with pytest.raises(
        UserError, match=r"max_new_tokens=: requests of up to 101 tokens, 1 at a time, take .* for keys"
    ):
        stream(small, ["a"], max_new_tokens=100)
    with pytest.raises(UserError, match=r"1 prompt tokens . 128 new ones; allowed: 128, the model's window"):
        stream(made, ["a"], max_new_tokens=128)
