"""The text of a stream: whole characters, all of them, and nothing of a stop string, wherever tokens end."""

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from real.run.answer import Answer
from real.run.choosing import stopper
from real.run.words import stop_strings
from tests.real.run.cases import bytewise, ids_of, library, offloaded, stream, text_of
from tests.traces.models.tiny import tiny
from traces.kit.conf import MODEL_DIR
from traces.kit.errors import UserError

TEXT = 'def gate(x):\n\n    """Ça coûte 5 €, 🚪🚪 naïve."""\n  return  [x, "…"]\n日本語 and so on.\n'


@cache
def shipped() -> Any:
    """tiny-moe's tokenizer: tokens of several characters, and of parts of one."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODEL_DIR)


def read(tokenizer: Any, ids: list[int], stops: tuple[str, ...] = ()) -> tuple[int, str, list[str]]:
    """How many tokens were taken until a stop string was complete, the text then, and its pieces."""
    stops_at, answer, pieces = stopper(stops, tokenizer), Answer(tokenizer, stops), []
    for count in range(1, len(ids) + 1):
        ended = stops_at is not None and stops_at(ids[:count])
        pieces.append(answer.add(ids[count - 1], "stop" if ended else "length" if count == len(ids) else None))
        if ended:
            break
    return count, "".join(pieces), pieces


@pytest.mark.parametrize("tokenizer", [shipped, bytewise])
def test_the_pieces_are_the_text_and_no_piece_has_half_a_character(tokenizer: Any) -> None:
    ids = tokenizer()(TEXT)["input_ids"]
    count, text, pieces = read(tokenizer(), ids)
    assert (count, text) == (len(ids), TEXT)
    assert not any("\ufffd" in piece for piece in pieces)
    assert sum(map(bool, pieces)) > len(pieces) / 4  # and they come as they are made


@settings(max_examples=20)
@given(first=st.integers(0, len(TEXT) - 1), length=st.integers(1, 9), other=st.sampled_from(["", "zzz", "€,", "\n\n "]))
def test_a_stop_string_ends_it_where_it_is_complete(first: int, length: int, other: str) -> None:
    """The tokens are the fewest whose text has one; the text is what comes before it."""
    stops = tuple(text for text in (TEXT[first : first + length], other) if text)
    places = [TEXT.find(stop) for stop in stops if stop in TEXT]
    for tokenizer in (shipped(), bytewise()):
        ids = tokenizer(TEXT)["input_ids"]
        fewest = next(n for n in range(1, len(ids) + 1) if any(s in tokenizer.decode(ids[:n]) for s in stops))
        count, text, pieces = read(tokenizer, ids, stops)
        assert count == fewest
        ended = tokenizer.decode(ids[:fewest])
        assert text == ended[: min(place for stop in stops if (place := ended.find(stop)) >= 0)]
        assert text == TEXT[: len(text)]
        assert len(text) in places
        assert text.startswith("".join(pieces[:-1]))  # nothing had to be taken back


def test_what_may_begin_a_stop_string_waits_and_is_told_when_it_does_not() -> None:
    answer = Answer(bytewise(), ("User:",))
    pieces = [answer.add(token, None) for token in bytewise()("aUsUsex User")["input_ids"]]
    assert pieces == ["a", "", "", "Us", "", "", "Usex", " ", "", "", "", ""]
    assert answer.rest() == "User"


def test_a_run_ends_there_as_generate_does() -> None:
    model, prompt = tiny("olmoe"), "zebra"
    ids = bytewise()(prompt)["input_ids"]
    whole = bytewise().decode(library(model, ids, max_new_tokens=24))
    stop = whole[2:5]  # three tokens
    assert stop.isascii()
    wanted = library(model, ids, max_new_tokens=24, stop_strings=["never", stop])
    assert len(wanted) == 5
    served = offloaded(model)
    tokens = list(stream(served, [prompt, "x"], "workload.batch=2", stop=("never", stop), max_new_tokens=24))
    assert ids_of(tokens) == wanted
    assert [token.end for token in tokens if token.request == 0][-1] == "stop"
    assert text_of(tokens) == whole.partition(stop)[0]
    assert sum(token.request == 1 for token in tokens) == 24  # the other goes on


def test_the_words_of_stop() -> None:
    assert stop_strings("\n\n") == ("\n\n",)
    assert stop_strings('["a", "\\n"]') == ("a", "\n")
    assert stop_strings("") == ()
    for wrong in ("[", '["a", 1]', '[""]', '[["a"]]'):
        with pytest.raises(ValueError, match="JSON list"):
            stop_strings(wrong)
    with pytest.raises(UserError, match=r"stop=.*: no token of the tokenizer ends it"):
        stopper(("a", "\u65e5"), no_bytes())


def no_bytes() -> Any:
    """Of letters alone."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[])))
