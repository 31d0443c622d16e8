"""From a prompt to a job: its tokens, what is chosen after them, and how long it may go on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any

from traces.kit.errors import UserError
from traces.models.load import Loaded
from traces.prompts.choosing import Choose, forced, greedy, sampled
from traces.prompts.encode import encode
from traces.prompts.records import Prompt
from traces.prompts.source import PromptFile


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
    def of(cls, options: object) -> Decoding:
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


def most_rows(prompts: PromptFile, loaded: Loaded, decoding: Decoding) -> int:
    """Rows that the prompts record if no token ends one early. Plans every prompt, so that a mistake in the last one
    shows before the first is recorded."""
    return sum(plan(prompt, loaded, decoding).most_rows for prompt in prompts)


def groups(prompts: PromptFile, start: int, loaded: Loaded, decoding: Decoding) -> Iterator[list[Job]]:
    """The jobs from request `start` on, `decoding.batch` at a time."""
    jobs = (plan(prompt, loaded, decoding) for prompt in prompts.after(start))
    while group := list(islice(jobs, decoding.batch)):
        yield group
