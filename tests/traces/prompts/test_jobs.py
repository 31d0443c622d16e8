"""From prompts to token ids: what is prefilled and the recorded answer make up the whole conversation."""

from typing import Any

import pytest
import torch  # noqa: F401 - the module is left out without it
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from traces import UserError
from traces.prompts.jobs import encode
from traces.prompts.records import Prompt

TURNS = (
    "{{ bos_token }}{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] + '<e>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no\nsystem role') }}{% endif %}"
    "{% for m in messages %}{{ m['role'] + m['content'] }}{% endfor %}"
)
THINKS = TURNS.replace("[assistant]", "[assistant]<think>")
CHAT = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hä?"})
RENDERED = "<s>[system]Be brief.<e>\n[user]Hä?<e>\n[assistant]"
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def bytewise(template: str | None = TURNS, merges: tuple[tuple[str, str], ...] = ()) -> Any:
    """A tokenizer of one token per byte, of special tokens <s>, put first, and <e>, and of some merges."""
    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    inner = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=list(merges)))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<s>", "<e>"])
    inner.post_processor = processors.TemplateProcessing(single="<s> $0", special_tokens=[("<s>", len(words))])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="<e>")
    tokenizer.chat_template = template
    return tokenizer


TOKENIZER = bytewise()


def chat(answer: str | None = None, messages: Any = CHAT) -> Prompt:
    return Prompt(0, "p.jsonl, line 3", None, messages, answer, "p", "train", None, None)


def plain(text: str) -> Prompt:
    return Prompt(0, "p.txt, line 3", text, None, None, "p", "train", None, None)


@settings(max_examples=60)
@given(st.lists(TEXTS, min_size=1, max_size=4), TEXTS)
def test_prompt_and_answer_are_the_whole_conversation(contents: list[str], answer: str) -> None:
    messages = tuple({"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents))
    ids, rest = encode(TOKENIZER, chat(answer, messages), "auto")
    conversation = [*messages, {"role": "assistant", "content": answer}]
    assert ids + (rest or []) == TOKENIZER.apply_chat_template(conversation, return_dict=False)
    assert ids == TOKENIZER.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=False)
    assert encode(TOKENIZER, chat(None, messages), "auto") == (ids, None)


def test_plain_text_goes_through_the_template_only_when_told() -> None:
    for mode in ("auto", "off"):
        assert encode(TOKENIZER, plain("Hä?"), mode) == (TOKENIZER("Hä?")["input_ids"], None)
    ids, answer = encode(TOKENIZER, plain("Hä?"), "on")
    assert TOKENIZER.decode(ids) == "<s>[user]Hä?<e>\n[assistant]"
    assert answer is None


@pytest.mark.parametrize(("template", "mode"), [(None, "auto"), (None, "off"), (TURNS, "off")])
def test_without_a_template_a_chat_is_its_lines(template: str | None, mode: str) -> None:
    tokenizer = bytewise(template)
    ids, answer = encode(tokenizer, chat("Ja."), mode)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Be brief.\nHä?\n"
    assert ids + (answer or []) == tokenizer("Be brief.\nHä?\nJa.")["input_ids"]


def test_a_merge_across_the_border_is_not_made() -> None:
    """ "Hä?\\n" was prefilled: a model can no longer merge that newline with the answer's."""
    tokenizer = bytewise(None, merges=(("Ċ", "Ċ"),))
    ids, answer = encode(tokenizer, chat("\nJa."), "auto")
    assert (ids, None) == encode(tokenizer, chat(), "auto")
    assert answer == tokenizer("\nJa.", add_special_tokens=False)["input_ids"]
    assert ids + answer != tokenizer("Be brief.\nHä?\n\nJa.")["input_ids"]


def test_a_template_that_opens_an_answer_its_own_way() -> None:
    tokenizer = bytewise(THINKS)
    ids, answer = encode(tokenizer, chat("Ja."), "auto")
    assert tokenizer.decode(ids) == RENDERED + "<think>"
    assert tokenizer.decode(answer) == "Ja."


def test_a_chat_that_the_template_refuses_is_named() -> None:
    tokenizer = bytewise(NO_SYSTEM)
    with pytest.raises(
        UserError, match=r"p.jsonl, line 3: .*refuses it \(no system role\).*chat_template=off"
    ) as caught:
        encode(tokenizer, chat("Ja."), "auto")
    assert "\n" not in str(caught.value)
    assert encode(tokenizer, chat("Ja.", CHAT[1:]), "auto")[1] is not None
    tokenizer.chat_template = "{% if %}"
    with pytest.raises(UserError, match="line 3: the tokenizer's chat template refuses it"):
        encode(tokenizer, chat("Ja."), "on")


def test_a_template_that_is_not_there_is_not_used() -> None:
    for prompt in (chat(), plain("x")):
        with pytest.raises(UserError, match="the tokenizer has no chat template; allowed: auto, off"):
            encode(bytewise(None), prompt, "on")
