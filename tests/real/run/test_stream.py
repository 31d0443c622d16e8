"""Streamed tokens are those of the library's own generate, whatever the budget, and no reader loses one."""

import threading
from typing import Any

import pytest
import torch

from real.run.asked import Asked
from real.run.choosing import seed_of
from real.run.serving import Serving
from real.run.stream import Stream
from real.run.words import Generation
from tests.real.run.cases import SAMPLED, bytewise, config, ids_of, library, offloaded, stream, text_of
from tests.real.runtime.test_more_families import REFUSED
from tests.traces.models.tiny import FAMILIES, MORE, there, tiny
from traces.kit.errors import UserError

PROMPTS = ("The door", "x", "sixteen or more letters of a prompt")
"""The last is longer than the sliding windows here."""
SEED, NEW = 11, 7


def agrees(model: Any) -> None:
    """Greedily two at a time, and with a seed one after the other."""
    prompts = [bytewise()(text)["input_ids"] for text in PROMPTS]
    wanted = [library(model, ids, max_new_tokens=NEW) for ids in prompts]
    drawn = [
        library(model, ids, seed_of(SEED, number), max_new_tokens=NEW, **SAMPLED) for number, ids in enumerate(prompts)
    ]
    assert drawn != wanted
    served = offloaded(model)
    greedy = list(stream(served, PROMPTS, "workload.batch=2", max_new_tokens=NEW))
    assert [ids_of(greedy, i) for i in range(3)] == wanted
    sampled = list(stream(served, PROMPTS, f"seed={SEED}", decoding="sampled", max_new_tokens=NEW, **SAMPLED))
    assert [ids_of(sampled, i) for i in range(3)] == drawn
    for tokens in (greedy, sampled):
        for request, ids in enumerate(wanted if tokens is greedy else drawn):
            ends = [token.end for token in tokens if token.request == request]
            assert ends[:-1] == [None] * (len(ids) - 1)
            assert ends[-1] == ("token" if ids[-1] == 299 else "length")


FIRST = ("olmoe", "deepseek_v3", "gpt_oss")
"""No shared expert and no dense layer; both, and groups; biases and a sliding window."""


@pytest.mark.parametrize("name", FIRST)
def test_the_tokens_are_those_of_generate(name: str) -> None:
    agrees(tiny(name))


@pytest.mark.ci
@pytest.mark.parametrize("name", sorted((FAMILIES | MORE).keys() - REFUSED.keys() - {*FIRST}))
def test_of_every_other_family_too(name: str) -> None:
    agrees(tiny(there(name)))


@pytest.mark.parametrize("one", [{}, *({key: value} for key, value in SAMPLED.items())], ids=str)
def test_each_word_of_sampling_does_what_it_does_there(one: dict[str, Any]) -> None:
    model, off = tiny("olmoe"), {"top_k": 0}
    ids = bytewise()(PROMPTS[0])["input_ids"]
    wanted = library(model, ids, 2**32 - 1, max_new_tokens=12, **off | one)
    found = list(
        stream(offloaded(model), PROMPTS[:1], f"seed={2**32 - 1}", decoding="sampled", max_new_tokens=12, **one)
    )
    assert ids_of(found) == wanted


def test_a_repetition_is_less_likely_greedily_as_well() -> None:
    model, word = tiny("olmoe"), {"repetition_penalty": 1.8}
    ids = bytewise()(PROMPTS[2])["input_ids"]
    wanted = library(model, ids, max_new_tokens=16, **word)
    assert wanted != library(model, ids, max_new_tokens=16)
    assert ids_of(list(stream(offloaded(model), PROMPTS[2:], max_new_tokens=16, **word))) == wanted


def test_a_token_says_whose_it_is_in_whatever_order_they_are_served() -> None:
    served, asked, how = offloaded(tiny("olmoe")), Asked.of_texts(PROMPTS, "prompts"), Generation(max_new_tokens=3)
    wanted = list(Stream(Serving(config("policy=lru", "budget=30%"), served, asked, how)))
    serving = Serving(config("policy=lru", "budget=30%", "seed=2"), served, asked, how, permuted=True)
    assert serving.places != [0, 1, 2]
    found = list(Stream(serving))
    assert [*dict.fromkeys(token.request for token in found)] == serving.places
    assert [ids_of(found, i) for i in range(3)] == [ids_of(wanted, i) for i in range(3)]


def test_a_slow_reader_loses_nothing() -> None:
    """All has been made before the second token is taken."""
    served = offloaded(tiny("olmoe"))
    at_once = list(stream(served, PROMPTS, max_new_tokens=NEW))
    slow = stream(served, PROMPTS, max_new_tokens=NEW)
    first = next(slow)
    slow._engine.thread.join()
    tokens = [first, *slow]
    assert [(t.request, t.index, t.id, t.text, t.end) for t in tokens] == [
        (t.request, t.index, t.id, t.text, t.end) for t in at_once
    ]
    assert [t.seconds for t in tokens] == sorted(t.seconds for t in tokens)
    slow.session().run.outcome.accounts.check()
    assert "interrupted" not in slow.result()["provenance"]["device"]


def paused(served: Any, after: int, **how: Any) -> Stream:
    """A stream that is closed when so many tokens have been made."""
    found = stream(served, PROMPTS, **how)
    tell, seen = found._engine._tell, []

    def told(request: Any) -> None:
        tell(request)
        seen.append(request)
        if len(seen) == after:
            found.stop()

    found._engine._tell = told  # type: ignore[method-assign]
    return found


def test_what_was_made_before_an_end_is_told_of_and_adds_up() -> None:
    """In the second of three requests: the third has never begun."""
    served = offloaded(tiny("olmoe"))
    whole = list(stream(served, PROMPTS, max_new_tokens=NEW))
    before = threading.active_count()
    found = paused(served, NEW + 2, max_new_tokens=NEW)
    tokens = list(found)
    assert threading.active_count() == before
    assert [t.id for t in tokens] == [t.id for t in whole[: NEW + 2]]
    assert tokens[-1].end is None
    session = found.session()
    session.run.outcome.accounts.check()
    about = session.document()["provenance"]["device"]
    assert about["interrupted"] == "2 of 3 requests had begun"
    assert about["replay_agrees"]
    assert [it.output_tokens for it in session.cell.trace.requests] == [NEW, 2]
    assert session.texts[1] == text_of(tokens, 1) + found.rest(1)
    made = session.made
    assert made is not None
    assert made.is_dir()
    found._session = session = None  # type: ignore[assignment]
    assert not made.exists()


def test_a_stream_that_is_left_or_forgotten_ends_its_thread() -> None:
    served = offloaded(tiny("olmoe"))
    before = threading.active_count()
    found = stream(served, PROMPTS, max_new_tokens=60)
    assert threading.active_count() == before  # nothing runs yet
    next(found)
    engine = found._engine
    del found
    assert not engine.thread.is_alive()
    assert (engine.failure, engine.serving.interrupted) == (None, True)
    assert threading.active_count() == before
    with stream(served, PROMPTS, max_new_tokens=60) as found:
        next(found)
        with pytest.raises(UserError, match="has not ended"):
            found.result()
    assert threading.active_count() == before
    with stream(served, PROMPTS) as unread:
        pass
    assert list(unread) == []
    with pytest.raises(UserError, match="has not ended"):
        unread.result()


def test_who_asks_meanwhile_is_refused_and_changes_nothing() -> None:
    """What is asked is checked before it is refused, on a model that runs."""
    served = offloaded(tiny("olmoe"))
    alone = [token.id for token in stream(served, PROMPTS, max_new_tokens=NEW)]
    running, asked = stream(served, PROMPTS, max_new_tokens=NEW), threading.Event()
    request = running._serving.requests[0]
    choose = request.choose

    def waiting(logits: Any) -> int:
        if request.made:  # in the second pass
            assert asked.wait(60)
        return choose(logits)

    request.choose = waiting
    first = next(running)
    with pytest.raises(UserError, match="generates already"):
        next(stream(served, PROMPTS))
    asked.set()
    assert [first.id, *(token.id for token in running)] == alone
    assert running.result()["provenance"]["device"]["replay_agrees"]


def test_an_error_of_the_run_reaches_who_reads() -> None:
    served = offloaded(tiny("olmoe"))
    found = stream(served, PROMPTS, max_new_tokens=NEW)
    for request in found._serving.requests[1:]:
        request.choose = lambda logits: [][0]  # type: ignore[assignment]
    with pytest.raises(IndexError):
        list(found)
    assert not found._engine.thread.is_alive()
    assert len(list(stream(served, PROMPTS, max_new_tokens=NEW))) == 3 * NEW  # and the model is as it was


def test_a_reader_is_not_put_into_inference_mode() -> None:
    """The run is; left on in the caller's thread, what it trains next would have no gradients."""
    for _ in stream(offloaded(tiny("olmoe")), PROMPTS[:1], max_new_tokens=3):
        assert not torch.is_inference_mode_enabled()
    assert torch.ones(1, requires_grad=True).exp().requires_grad
