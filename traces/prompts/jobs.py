"""From a prompt to a job: its tokens, through a chat template where one applies; what is chosen after them, and how
long it may go on."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import partial
from itertools import islice
from typing import Any, Self

import torch
from torch import Tensor
from transformers import TopPLogitsWarper

from traces.kit.errors import UserError
from traces.kit.telling import in_short
from traces.models.load import Loaded
from traces.prompts.records import Message, Prompt
from traces.prompts.source import PromptFile

Choose = Callable[[Tensor], int]
"""The next token, given the logits [V] of the last position."""


def greedy(logits: Tensor) -> int:
    """The most likely token."""
    return int(logits.argmax())


def sampled(temperature: float, seed: int, top_p: float = 1.0) -> Choose:
    """Draw from softmax(logits / temperature) with a generator of its own, on the CPU on any device.

    `top_p` below 1: from the fewest most likely tokens that together have at least this probability.
    """
    generator = torch.Generator().manual_seed(seed)
    narrow: Any = TopPLogitsWarper(top_p) if top_p < 1 else None

    def choose(logits: Tensor) -> int:
        scores = logits.double().cpu() / temperature
        if narrow is not None:
            scores = narrow(None, scores[None])[0]
        return int(torch.multinomial(torch.softmax(scores, dim=-1), 1, generator=generator))

    return choose


def forced(continuation: list[int]) -> Choose:
    """The tokens of a given continuation, one after the other, whatever the model would say."""
    tokens = iter(continuation)
    return lambda _logits: next(tokens)


class TemplateError(UserError):
    """A chat that a tokenizer's template refuses. ``fault``: which and why; what is allowed is named elsewhere."""

    def __init__(self, fault: str) -> None:
        super().__init__(f"{fault}; allowed: chat_template=off")
        self.fault = fault


@dataclass(frozen=True)
class Decoding:
    """How each prompt is continued. Prompts beyond `max_prompt_tokens` are cut off at their end."""

    decoding: str
    max_new_tokens: int
    max_prompt_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    chat_template: str = "auto"
    batch: int = 1

    @classmethod
    def of(cls, options: object) -> Self:
        """As a command's options say, which have these names."""
        return cls(**{it.name: getattr(options, it.name) for it in fields(cls)})

    def settings(self, tokenizer: Any) -> dict[str, Any]:
        """What the manifest says about it; chat_template: which prompts went through it (on: all)."""
        applied = self.chat_template
        if applied == "auto":
            applied = "chats" if getattr(tokenizer, "chat_template", None) else "off"
        shown = ["max_new_tokens", "max_prompt_tokens", "chat_template", "batch"]
        shown += ["temperature", "top_p", "seed"] if self.decoding == "sampled" else []
        return {"mode": self.decoding, **{key: getattr(self, key) for key in shown}, "chat_template": applied}


@dataclass(frozen=True)
class Job:
    """A tokenised prompt: what is prefilled, and what is chosen after it, at most `new_tokens` times."""

    prompt: Prompt
    ids: list[int]
    choose: Choose
    new_tokens: int

    @property
    def most_rows(self) -> int:
        """Rows it records if no token ends it: the last token chosen is not fed back."""
        return len(self.ids) + self.new_tokens - 1


def plan(prompt: Prompt, loaded: Loaded, decoding: Decoding) -> Job:
    """Tokenise a prompt; UserError where nothing is left to record, or the model's vocabulary or window ends."""
    ids, answer = encode(loaded.tokenizer, prompt, decoding.chat_template)
    head, rest = ids[: decoding.max_prompt_tokens], ids[decoding.max_prompt_tokens :]
    new_tokens = prompt.max_new_tokens or decoding.max_new_tokens
    choose: Choose = greedy
    if not head:
        raise UserError(f"{prompt.where}: no tokens")
    if decoding.decoding == "sampled":
        choose = sampled(decoding.temperature, draw_seed(decoding.seed, prompt.number), decoding.top_p)
    elif decoding.decoding == "teacher_forced":
        continuation = rest + (answer or [])
        choose, new_tokens = forced(continuation), min(new_tokens, len(continuation))
        if not new_tokens:
            limit = f"max_prompt_tokens={decoding.max_prompt_tokens}"
            raise UserError(f"{prompt.where}: {len(ids)} tokens leave no continuation to force; lower {limit}")
    # On a GPU, a token without an embedding would end the process.
    rows, largest = loaded.model.get_input_embeddings().weight.shape[0], max(ids + (answer or []))
    if largest >= rows:
        raise UserError(f"{prompt.where}: the tokenizer gives token {largest}; allowed: 0 to {rows - 1}, the model's")
    window = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
    if window is not None and len(head) + new_tokens > window:
        asked = f"{len(head)} prompt tokens + {new_tokens} new ones"
        raise UserError(f"{prompt.where}: {asked}; allowed: {window}, the model's window")
    return Job(prompt, head, choose, new_tokens)


def draw_seed(seed: int, number: int) -> int:
    """The seed of request `number`, below 2**32: torch's generator on the CPU takes no more bits.

    Steps of 2**32 / the golden ratio lie far apart, so recordings with different seeds share no draws; `seed` and
    `number` merely added would give request 1 of seed 0 those of request 0 of seed 1.
    """
    return (seed * 0x9E3779B1 + number) % 2**32


def groups(prompts: PromptFile, start: int, loaded: Loaded, decoding: Decoding) -> Iterator[list[Job]]:
    """The jobs from request `start` on, `decoding.batch` at a time."""
    jobs = (plan(prompt, loaded, decoding) for prompt in prompts.after(start))
    while group := list(islice(jobs, decoding.batch)):
        yield group


def encode(tokenizer: Any, prompt: Prompt, chat_template: str) -> tuple[list[int], list[int] | None]:
    """The ids that are prefilled, and those of the recorded answer (None where there is none).

    `chat_template`: "auto", chats go through the tokenizer's template if it has one, plain text never; "on", plain text
    too, as one user turn; "off", neither. A chat without a template is the text of its turns, each followed by a
    newline, and then the answer. Text from a template has its special tokens already and gets no others.

    The prefilled ids are those that generation would start from, whether there is an answer or not. The answer's are
    what follows them in the rendering of the whole, including the end of turn that the template writes. Two exceptions:
    where the tokenizer would merge characters of the prompt with some of the answer, what follows is tokenised by
    itself, since no model that was given the prompt could have produced the merged token; and where a template begins
    an answer that is to be generated in another way than one that is there (a tag for thinking), the answer is its text
    alone. UserError for "on" without a template, and for a chat that the template refuses.
    """
    has_template = bool(getattr(tokenizer, "chat_template", None))
    if chat_template == "on" and not has_template:
        raise UserError("chat_template='on': the tokenizer has no chat template; allowed: auto, off")
    templated = has_template and (chat_template == "on" or (chat_template == "auto" and prompt.messages is not None))
    if templated:
        head, whole = _with_template(tokenizer, prompt)
    else:
        head = (prompt.text or "") + "".join(said["content"] + "\n" for said in prompt.messages or ())
        whole = head + (prompt.answer or "")
    ids = _ids(tokenizer, head, special=not templated)
    if prompt.answer is None:
        return ids, None
    if not whole.startswith(head):
        return ids, _ids(tokenizer, prompt.answer, special=False)
    together = _ids(tokenizer, whole, special=not templated)
    if together[: len(ids)] == ids:
        return ids, together[len(ids) :]
    return ids, _ids(tokenizer, whole[len(head) :], special=False)


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
        raise TemplateError(f"{prompt.where}: {fault}") from None


def _ids(tokenizer: Any, text: str, special: bool) -> list[int]:
    return [int(token) for token in tokenizer(text, add_special_tokens=special)["input_ids"]]
