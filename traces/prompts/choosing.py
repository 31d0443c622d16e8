"""What is chosen after a position: the most likely token, a drawn one, or a given one."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import TopPLogitsWarper

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
