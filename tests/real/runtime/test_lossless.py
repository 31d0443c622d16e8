"""What a budget must not change: the logits, to the last bit; and the library's own greedy tokens."""

from copy import copy
from dataclasses import replace
from typing import Any

from policies.lru import LRU
from real.runtime.offloaded import Offloaded
from tests.real.runtime.rig import CPU, NEW_TOKENS, PROMPTS, All, Ran, Rig, serve, torch
from tests.traces.conftest import FAMILIES as TRIED
from tests.traces.models.tiny import FAMILIES, tiny
from traces.models.load import load


def library(model: Any, prompts: Any = PROMPTS, new_tokens: Any = NEW_TOKENS) -> list[list[int]]:
    """What the library's own generate makes of each prompt, greedily."""
    made = []
    for prompt, wanted in zip(prompts, new_tokens, strict=True):
        with torch.inference_mode():
            out = model.generate(
                torch.tensor([prompt]), max_new_tokens=wanted, do_sample=False, eos_token_id=None, pad_token_id=0
            )
        made.append(out[0, len(prompt) :].tolist())
    return made


def until(made: list[list[int]], ends: frozenset[int]) -> list[list[int]]:
    return [tokens[: next((i + 1 for i, t in enumerate(tokens) if t in ends), None)] for tokens in made]


def test_every_family_with_a_tiny_model_is_tried() -> None:
    assert {*TRIED} == FAMILIES.keys()


def same_logits(rig: Rig, budgets: tuple[int, ...], batch: int = 4, **given: Any) -> Ran:
    """The run with everything resident, whose logits those with room for so many experts have as well: to the last bit.
    So has the library's grouped kernel, which on a CPU rounds alike, and without a wait per layer."""
    whole = serve(rig, All, rig.experts, batch, **given).check()
    assert whole.machine.resident
    grouped = copy(rig.model)
    grouped.exact = False
    assert serve(replace(rig, model=grouped), All, rig.experts, batch, **given).check().same_logits(whole)
    for held in budgets:
        some = serve(rig, LRU, held, batch, **given).check()
        assert some.core.state.peak == held * rig.nbytes
        assert some.same_logits(whole), (held, batch)
    return whole


# An expert computed with another's weights, a slot taken too early, a sum in the order of arrival, a mask off by one.
def test_logits_do_not_depend_on_the_budget(family: str) -> None:
    model = tiny(family)
    expected = library(model)
    rig = Rig(Offloaded(model, CPU), chunks=2)
    ends = frozenset({expected[2][3]})  # some requests end before their last token
    for batch, held in ((1, 1), (4, rig.experts // 3)):
        assert same_logits(rig, (held,), batch, ends=ends).made == until(expected, ends)


def test_logits_in_bfloat16_do_not_either(family: str) -> None:
    rig = Rig(Offloaded(tiny(family).to(torch.bfloat16), CPU), depth=2)
    same_logits(rig, (1 if family in TRIED[::2] else rig.experts // 2,))


def test_tiny_moe_too() -> None:
    prompts, wanted = ((5, 9, 200, 31), (77,) * 40, (1000, 2000), (8, 1, 5), (3, 4)), (4, 2, 5, 1, 3)
    model = load("tiny-moe", "float32", "cpu").model
    expected = library(model, prompts, wanted)
    assert same_logits(Rig(Offloaded(model, CPU)), (1, 200), prompts=prompts, new_tokens=wanted).made == expected


def test_every_pass_says_where_its_tokens_are() -> None:
    """A prompt in two parts, then two requests of different lengths at once."""
    rig, given = Rig(Offloaded(tiny("olmoe"), CPU)), []
    rig.model.model.register_forward_pre_hook(
        lambda _model, _args, kwargs: given.append(kwargs["position_ids"].tolist()), with_kwargs=True
    )
    serve(rig, All, rig.experts, 2, prompts=((5, 9, 200), (7,)), new_tokens=(3, 2)).check()
    assert given == [[[0, 1, 2]], [[0]], [[3], [1]], [[4]]]
