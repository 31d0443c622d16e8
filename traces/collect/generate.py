"""The passes that serve one prompt: a prefill pass over all of it, then one pass per generated token."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor

Choose = Callable[[Tensor], int]
"""The next token, given the logits [V] of the last position."""


def greedy(logits: Tensor) -> int:
    """The most likely token."""
    return int(logits.argmax())


def sampled(temperature: float, seed: int) -> Choose:
    """Draw from softmax(logits / temperature) with a generator of its own, on the CPU on any device."""
    generator = torch.Generator().manual_seed(seed)

    def choose(logits: Tensor) -> int:
        probs = torch.softmax(logits.double().cpu() / temperature, dim=-1)
        return int(torch.multinomial(probs, 1, generator=generator))

    return choose


def forced(continuation: list[int]) -> Choose:
    """The tokens of a given continuation, one after the other, whatever the model would say."""
    tokens = iter(continuation)
    return lambda _logits: next(tokens)


def passes(
    model: Any, prompt: list[int], choose: Choose, max_new_tokens: int, end: Collection[int]
) -> Iterator[tuple[Tensor, int]]:
    """Run the passes; after each, yield its token ids (int64 [1, T]) and the token that was chosen from it.

    Stops after `max_new_tokens` tokens or one of `end`. The last token chosen is not fed back, so it has no
    pass. The model must be in inference mode of the caller's.
    """
    chunk, cache = prompt, None
    for _ in range(max_new_tokens):
        ids = torch.tensor([chunk], device=model.device)
        out = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        token, cache = choose(out.logits[0, -1]), out.past_key_values
        yield ids, token
        if token in end:
            return
        chunk = [token]
