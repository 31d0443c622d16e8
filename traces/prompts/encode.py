"""From a prompt to token ids, through the tokenizer's chat template where one applies."""

from functools import partial
from typing import Any

from traces.kit.errors import UserError, check_choice
from traces.kit.telling import in_short
from traces.prompts.records import Message, Prompt

TEMPLATES = ("auto", "on", "off")


def encode(tokenizer: Any, prompt: Prompt, chat_template: str) -> tuple[list[int], list[int] | None]:
    """Return the ids that are prefilled, and those of the recorded answer (None where there is none).

    `chat_template`: "auto", chats go through the tokenizer's template if it has one, plain text never; "on", plain
    text too, as one user turn; "off", neither. A chat without a template is the text of its turns, each
    followed by a newline, and then the answer.

    The prefilled ids are those that generation would start from, whether there is an answer or not. The answer's
    are what follows them in the rendering of the whole, including the end of turn that the template writes. Two
    exceptions: where the tokenizer would merge characters of the prompt with some of the answer, what follows is
    tokenised by itself, since no model that was given the prompt could have produced the merged token; and where a
    template begins an answer that is to be generated in another way than one that is there (a tag for
    thinking), the answer is its text alone.

    Text from a template has its special tokens already and gets no others; plain text gets the tokenizer's own.
    Raises UserError for "on" without a template, and for a chat that the template refuses.
    """
    check_choice("chat_template", chat_template, TEMPLATES)
    has_template = bool(getattr(tokenizer, "chat_template", None))
    if chat_template == "on" and not has_template:
        raise UserError("chat_template='on': the tokenizer has no chat template; allowed: auto, off")
    templated = has_template and (chat_template == "on" or (chat_template == "auto" and prompt.messages is not None))
    head, whole = _with_template(tokenizer, prompt) if templated else _plain(prompt)
    ids = _ids(tokenizer, head, special=not templated)
    if prompt.answer is None:
        return ids, None
    if not whole.startswith(head):
        return ids, _ids(tokenizer, prompt.answer, special=False)
    together = _ids(tokenizer, whole, special=not templated)
    if together[: len(ids)] == ids:
        return ids, together[len(ids) :]
    return ids, _ids(tokenizer, whole[len(head) :], special=False)


def _plain(prompt: Prompt) -> tuple[str, str]:
    """Return the prompt as plain text, without and with the answer."""
    head = (prompt.text or "") + "".join(said["content"] + "\n" for said in prompt.messages or ())
    return head, head + (prompt.answer or "")


def _with_template(tokenizer: Any, prompt: Prompt) -> tuple[str, str]:
    """Return the rendered prompt, ready for an answer, and the rendering of both."""
    messages: list[Message] = list(prompt.messages or ({"role": "user", "content": prompt.text or ""},))
    render = partial(tokenizer.apply_chat_template, tokenize=False)
    try:
        head = str(render(messages, add_generation_prompt=True))
        if prompt.answer is None:
            return head, head
        return head, str(render([*messages, {"role": "assistant", "content": prompt.answer}]))
    except Exception as error:  # a template is a program of the model's author, and may raise anything
        fault = f"the tokenizer's chat template refuses it ({in_short(error) or type(error).__name__})"
        raise UserError(f"{prompt.where}: {fault}; allowed: chat_template=off") from None


def _ids(tokenizer: Any, text: str, special: bool) -> list[int]:
    return [int(token) for token in tokenizer(text, add_special_tokens=special)["input_ids"]]
