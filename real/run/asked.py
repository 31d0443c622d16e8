"""What is asked: prompts of a file, of the command line or of a caller's own, and the requests that they become."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from real.run.choosing import chooser, seed_of
from real.run.words import Generation
from traces.kit.errors import UserError
from traces.models.load import Loaded
from traces.prompts.jobs import Decoding, Job, TemplateError, encode, plan
from traces.prompts.records import Prompt, parse_record
from traces.prompts.source import PromptFile

Chat = Sequence[Mapping[str, str]]
"""Turns, each {"role": system, user or assistant, "content": text}."""


@dataclass(frozen=True)
class Asked:
    """Prompts in their order, and where they are from, as a trace's manifest says it."""

    prompts: tuple[Prompt, ...]
    name: str
    licences: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What whoever asks is to be told, a line each."""

    @classmethod
    def of_file(cls, path: Path, limit: int) -> Self:
        """The first so many of a file as ``traces collect`` takes it; 0: all. UserError."""
        found = PromptFile(path, limit=limit, split=0)
        skipped = f"skipped {found.skipped} chats in which no user speaks before the answer"
        return cls(tuple(found), found.name, found.licences, (skipped,) if found.skipped else ())

    @classmethod
    def of_texts(cls, given: Sequence[str | Chat], name: str) -> Self:
        """Texts, or chats as lists of turns. UserError for what is neither, with its place."""
        prompts = []
        for number, one in enumerate(given):
            where = f"{name}, number {number}" if len(given) > 1 else name
            content = (
                {"prompt": one} if isinstance(one, str) else {"messages": list(one) if isinstance(one, tuple) else one}
            )
            found = parse_record(where, content, name, "last")
            if found is None:
                raise UserError(f"{where}: a chat in which no user speaks; allowed: one that a user's turn ends")
            if found.answer is not None:
                raise UserError(f"{where}: ends with an assistant's turn; allowed: a chat that a user's turn ends")
            prompts.append(replace(found, number=number, split="test"))
        if not prompts:
            raise UserError(f"{name}: none given; allowed: a text, a chat, or a list of them")
        return cls(tuple(prompts), name)

    def as_chats(self, system: str) -> Self:
        """Each as a chat: a text as a user's turn, after ``system`` unless it has a system turn of its own."""
        found = []
        for prompt in self.prompts:
            turns = prompt.messages or ({"role": "user", "content": prompt.text or ""},)
            if system and turns[0]["role"] != "system":
                turns = ({"role": "system", "content": system}, *turns)
            found.append(replace(prompt, text=None, messages=turns))
        return replace(self, prompts=tuple(found))


def decoding_of(how: Generation, seed: int) -> Decoding:
    """The same as a recording's manifest says it."""
    new, most = how.max_new_tokens, how.max_prompt_tokens
    return Decoding(how.decoding, new, most, how.temperature, how.top_p, seed)


def jobs_of(asked: Asked, how: Generation, loaded: Loaded, seed: int) -> tuple[list[Job], list[str]]:
    """Each prompt's tokens and how they go on; and what is to be told of it, a line each. UserError for a prompt that
    cannot be, or a tokenizer without a template for chats."""
    texts = {prompt.number for prompt in asked.prompts if prompt.text is not None}
    if how.chat:
        if not getattr(loaded.tokenizer, "chat_template", None):
            raise UserError(f"chat=true: the tokenizer of {loaded.name} has no chat template; allowed: chat=false")
        asked = asked.as_chats(how.system)
    decoding = decoding_of(how, seed)
    found, notes = [], [*asked.notes]
    for prompt in asked.prompts:
        try:
            job = plan(prompt, loaded, decoding)
        except TemplateError as error:  # chat=false keeps texts from the template, and no chat
            allowed = ["no system="] * bool(how.system) + ["chat=false" if prompt.number in texts else "other turns"]
            raise UserError(f"{error.fault}; allowed: {', or '.join(allowed)}") from None
        found.append(replace(job, choose=chooser(how, job.ids, seed_of(seed, prompt.number))))
        if len(job.ids) == how.max_prompt_tokens:  # which may be all that it has
            had = len(encode(loaded.tokenizer, prompt, decoding.chat_template)[0])
            if had > len(job.ids):
                notes.append(
                    f"{prompt.where}: cut to {len(job.ids)} of {had} tokens (max_prompt_tokens={len(job.ids)})"
                )
    return found, notes
