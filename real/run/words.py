"""How a model is to continue prompts, as words: of ``python -m real run``, and of :func:`real.generate`."""

import json
from dataclasses import dataclass
from typing import Annotated, Literal

from traces.kit.errors import UserError
from traces.kit.vocabulary import Decoded
from traces.kit.words import Between

ALL_TOKENS = 1 << 20
"""More than any model's window."""


def stop_strings(value: str) -> tuple[str, ...]:
    """A mark: one text, or a JSON list of texts where it begins as one."""
    if not value.startswith("["):
        return (value,) if value else ()
    try:
        found = json.loads(value)
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(text, str) and text for text in found):
        raise ValueError('a text, or a JSON list of texts that are not empty, such as ["\\n\\n", "User:"]')
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Generation(Decoded):
    """How each prompt is continued. UserError for what greedy decoding has no use for."""

    decoding: Annotated[Literal["greedy", "sampled"], ""] = "greedy"
    top_k: Annotated[int, Between(0, ALL_TOKENS), "of sampled decoding: among so many likeliest tokens; 0: all"] = 0
    min_p: Annotated[
        float, Between(0, 1), "of sampled decoding: at least so likely, as a share of the likeliest token's"
    ] = 0.0
    repetition_penalty: Annotated[
        float, Between(1e-3, 1e3), "above 1: tokens that the prompt or the answer has are less likely"
    ] = 1.0
    stop: Annotated[
        tuple[str, ...],
        stop_strings,
        'a text that ends an answer, and is no part of it; or several, as a JSON list: ["\\n\\n", "User:"]',
    ] = ()
    chat: Annotated[bool, "true: each prompt is a user's turn, put into the tokenizer's chat template"] = False
    system: Annotated[str, "of chat=true: what a chat begins with, unless it has a system turn of its own"] = ""
    max_new_tokens: Annotated[int, Between(1, ALL_TOKENS), "per prompt, but for those that state their own"] = 64
    max_prompt_tokens: Annotated[int, Between(1, ALL_TOKENS), "longer prompts are cut"] = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("top_k", "min_p"):
            if self.decoding != "sampled" and getattr(self, key):
                raise UserError(f"{key}={getattr(self, key):g}: is for decoding=sampled, not {self.decoding}")
        if self.system and not self.chat:
            raise UserError(f"system={self.system[:40]}: is for chat=true")

    def drawn(self) -> dict[str, float]:
        """What a trace's manifest is to say beside what :class:`traces.prompts.jobs.Decoding` says."""
        drawn = {"top_k": self.top_k, "min_p": self.min_p} if self.decoding == "sampled" else {}
        return drawn | {"repetition_penalty": self.repetition_penalty}
