"""What follows the tokens so far: chosen by the library's own processors, ended by its own criterion."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    StopStringCriteria,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from real.run.words import Generation
from traces.kit.errors import UserError, shown
from traces.prompts.jobs import Choose, greedy

GOLDEN = 0x9E3779B1
"""2**32 / the golden ratio: multiples of it lie far apart, so that no two requests share their draws."""


def chooser(how: Generation, prompt: Sequence[int], seed: int) -> Choose:
    """The next token after a prompt, and then after each that was chosen: as the library's ``generate`` has it after
    ``torch.manual_seed(seed)``, of this request alone, by draws on the CPU whatever the device."""
    processors = processors_of(how)
    if how.decoding == "greedy" and not processors:
        return greedy
    generator, ids = torch.Generator().manual_seed(seed % 2**32), list(prompt)

    def choose(logits: Tensor) -> int:
        scores = logits.to("cpu", torch.float32, copy=True)[None]
        scores = processors(torch.tensor([ids]), scores)
        if how.decoding == "greedy":
            ids.append(int(scores.argmax()))
        else:
            ids.append(int(torch.multinomial(torch.softmax(scores, dim=-1), 1, generator=generator)))
        return ids[-1]

    return choose


def processors_of(how: Generation) -> Any:
    """In the order in which ``generate`` has them, and like it without those that would change nothing."""
    found: Any = LogitsProcessorList()
    if how.repetition_penalty != 1:
        found.append(RepetitionPenaltyLogitsProcessor(how.repetition_penalty))
    if how.decoding == "sampled":
        if how.temperature != 1:
            found.append(TemperatureLogitsWarper(how.temperature))
        if how.top_k:
            found.append(TopKLogitsWarper(how.top_k))
        if how.top_p < 1:
            found.append(TopPLogitsWarper(how.top_p))
        if how.min_p:
            found.append(MinPLogitsWarper(how.min_p))
    return found


def seed_of(seed: int, number: int) -> int:
    """The seed of the prompt of that number: the first one's is ``seed`` itself."""
    return (seed + number * GOLDEN) % 2**32


def stopper(strings: Sequence[str], tokenizer: Any) -> Callable[[Sequence[int]], bool] | None:
    """Whether the last of some tokens completes one of the texts, wherever the tokens' borders lie; None without texts.

    UserError for a text that no token of the tokenizer can end.
    """
    if not strings:
        return None
    make: Any = StopStringCriteria
    for text in strings:
        try:
            make(tokenizer, [text])
        except ValueError:
            raise UserError(
                f"stop={shown(text)}: no token of the tokenizer ends it; allowed: a text of its tokens"
            ) from (None)
    criterion = make(tokenizer, list(strings))

    def stops(ids: Sequence[int]) -> bool:
        return bool(criterion(torch.tensor([ids[-criterion.maximum_token_len :]]), None)[0])

    return stops
