"""What one record of a file of prompts says: a prompt, or a chat that is cut where the model is to answer.

    {"prompt": TEXT, "source": ..., "split": ..., "licence": ..., "max_new_tokens": ...}

All but the prompt are optional, and other keys are refused, lest a mistyped one goes unseen. A chat has, in place
of the prompt, a list of turns under `messages` (OpenAI, Hugging Face), `conversation` (LMSYS-Chat-1M) or
`conversations` (ShareGPT), each {"role": ..., "content": ...} or {"from": ..., "value": ...}. Data sets add keys of
their own to chats and turns: these are let pass. A null is as good as no key.
"""

from dataclasses import dataclass
from typing import Any

from traces.kit.errors import UserError, one_of, shown

KEYS = ("prompt", "source", "split", "licence", "max_new_tokens")
CHATS = ("messages", "conversation", "conversations")
SPLITS = ("train", "test")
ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
}
"""The words for a role that data sets use, and the word that templates know."""
_CALLS = ("tool_calls", "function_call")

Message = dict[str, str]


@dataclass(frozen=True)
class Prompt:
    """One request to record. Exactly one of `text` and `messages` is given.

    `number`: prompt * samples + sample. `where`: its place in the file, for messages to the user. `messages`: the turns
    before the answer, {"role": system, user or assistant, "content": text}. `answer`: what the chat's assistant said
    next, perhaps ""; None for plain text, and for a chat that ends with its user. `split`: "train" or "test"; None: to
    be drawn. `max_new_tokens` None: as for all.
    """

    number: int
    where: str
    text: str | None
    messages: tuple[Message, ...] | None
    answer: str | None
    source: str
    split: str | None
    licence: str | None
    max_new_tokens: int | None


def parse_record(where: str, content: Any, stem: str, turn: str) -> Prompt | None:
    """Check the record at `where`, here of number 0; `stem` is its source unless it names one itself.

    A chat's answer is its first or its last assistant turn, as `turn` says; what comes after is dropped, and without an
    assistant turn all of it is the prompt. None for a chat in which no user says anything before that answer, as in
    every large data set. UserError for whatever else is wrong, a blank prompt included.
    """
    if not isinstance(content, dict):
        raise UserError(f'{where}: not an object with a "prompt" or a chat, but {shown(content)}')
    content = {key: value for key, value in content.items() if value is not None}
    labelled = {"source": stem, **content}
    chats = [key for key in CHATS if key in content]
    if len(chats) > 1:
        raise UserError(f"{where}: {one_of(chats)} in one record; allowed: one of {one_of(CHATS)}")
    if not chats:
        return Prompt(0, where, _prompt(content, where), None, None, **_labels(labelled, where))
    turns, place = content[chats[0]], f"{where}, {chats[0]}"
    if not isinstance(turns, list):
        raise UserError(f"{place}: {shown(turns)} is no list; allowed: a list of turns")
    said = [_turn(one, f"{place}, turn {number}") for number, one in enumerate(turns, start=1)]
    answers = [index for index, one in enumerate(said) if one["role"] == "assistant"]
    end = answers[0 if turn == "first" else -1] if answers else len(said)
    answer = said[end]["content"] if answers else None
    prompt = Prompt(0, where, None, tuple(said[:end]), answer, **_labels(labelled, where))
    asked = any(one["role"] == "user" and one["content"].strip() for one in said[:end])
    return prompt if asked else None


def _prompt(content: dict[str, Any], where: str) -> str:
    if "prompt" not in content:
        raise UserError(f'{where}: not an object with a "prompt" or a chat; allowed: prompt, {one_of(CHATS)}')
    if unknown := set(content) - set(KEYS):
        raise UserError(f"{where}: unknown key {shown(min(unknown))}; allowed: {one_of(KEYS)}")
    text = _text(content["prompt"], f"{where}: prompt")
    if not text.strip():
        raise UserError(f"{where}: prompt is {shown(text)}; allowed: text that is not blank")
    return text


def _labels(content: dict[str, Any], where: str) -> dict[str, Any]:
    labels = {key: content.get(key) for key in KEYS if key != "prompt"}
    for key in ("source", "licence"):
        value = content.get(key, "")
        if not isinstance(value, str) or not value.isprintable():
            raise UserError(f"{where}: {key} is {shown(value)}; allowed: printable text")
    if labels["split"] not in (None, *SPLITS):
        raise UserError(f"{where}: split is {shown(labels['split'])}; allowed: {one_of(SPLITS)}")
    count = labels["max_new_tokens"]
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
        raise UserError(f"{where}: max_new_tokens is {shown(count)}; allowed: a whole number, at least 1")
    return labels


def _turn(turn: Any, where: str) -> Message:
    said = {key: value for key, value in turn.items() if value is not None} if isinstance(turn, dict) else {}
    for role, content in (("role", "content"), ("from", "value")):
        if role in said and content in said:
            break
    else:
        raise UserError(f"{where}: {shown(turn)}; allowed: an object with role and content, or with from and value")
    if not isinstance(said[role], str) or said[role] not in ROLES:
        raise UserError(f"{where}: {role} is {shown(said[role])}; allowed: {one_of(ROLES)}")
    if calls := [key for key in _CALLS if said.get(key)]:
        raise UserError(f"{where}: {calls[0]} cannot be recorded; allowed: turns of text")
    return {"role": ROLES[said[role]], "content": _content(said[content], f"{where}: {content}")}


def _content(content: Any, where: str) -> str:
    """Return the text of a turn: a string, or text parts one after the other."""
    if not isinstance(content, list):
        return _text(content, where)
    texts: list[str] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else part
        if kind != "text":
            raise UserError(f"{where} has a part of type {shown(kind)}; allowed: text")
        texts.append(_text(part.get("text"), where))
    return "".join(texts)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where} is {shown(value)}; allowed: text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        fault = f"has half a surrogate pair at character {error.start}"
        raise UserError(f"{where} {fault}; allowed: Unicode text") from None
    return value
