"""Who arrives, what a pass computes of whom, and within which limits: the words of a scheduler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Arrival:
    """An instance: one arrival, with an id of its own, that replays a recorded request.

    Its sequence is its prompt and then its output tokens, numbered from 0. Of these ``prompt_tokens + output_tokens
    - 1`` are computed, each in the row that was recorded for it: the last output token is never an input.
    """

    id: int
    time_ns: int
    request: int
    """Of the trace."""
    prompt_tokens: int
    """At least 1, and at most as many as were recorded: cut at the end where fewer."""
    output_tokens: int
    """At least 1, and at most as many as were recorded."""
    priority: int = 0
    """The smaller, the sooner, as in vLLM."""

    @property
    def tokens(self) -> int:
        """How many are computed in all, each at least once: what the KV cache holds at the end."""
        return self.prompt_tokens + self.output_tokens - 1


class Share(NamedTuple):
    """What one instance computes in a pass: the tokens ``start .. start + tokens`` of its sequence.

    The first ``prompt_tokens`` of these are rows of its prompt, or rows that it had computed before it was preempted
    and computes again; the rest, none or one, is a decode row: an output token that is an input for the first time.
    """

    id: int
    start: int
    tokens: int
    prompt_tokens: int
    yields: bool
    """Whether the pass gives it an output token: the last token of the share is the last that it has so far."""

    def part(self, first: int, tokens: int) -> Share:
        """So many of its tokens, from the first-th on."""
        prompt = min(max(0, self.prompt_tokens - first), tokens)
        return Share(self.id, self.start + first, tokens, prompt, self.yields and first + tokens == self.tokens)


@dataclass(slots=True)
class Batch:
    """What one pass computes, in the order in which tokens were handed out: at least one share, one per instance."""

    shares: tuple[Share, ...]
    admitted: tuple[int, ...] = ()
    """Instances that left the queue for this pass, for the first time or again after a preemption."""
    preempted: tuple[int, ...] = ()
    """Instances that lost their KV blocks when this pass was planned, in this order. One may be admitted again in the
    same pass: it was preempted before."""
    pieces: tuple[tuple[Share, ...], ...] = ()
    """What is computed at a time, where that is not all at once (sim.workload.online.by_layer)."""

    @property
    def tokens(self) -> int:
        return sum(share.tokens for share in self.shares)


@dataclass(frozen=True, slots=True)
class Limits:
    """vLLM's names; ``kv_blocks``: of ``block_size`` tokens each, None: as many as are asked for."""

    max_num_seqs: int = 128
    max_num_batched_tokens: int = 2048
    enable_chunked_prefill: bool = True
    long_prefill_token_threshold: int = 0
    """The most tokens of one request in a pass; 0: no limit of its own."""
    block_size: int = 16
    kv_blocks: int | None = None
    layer_major: bool = False
    """Whether whoever is given tokens is given all that it lacks (sim.workload.online.by_layer)."""

    def blocks(self, tokens: int) -> int:
        """KV blocks of so many tokens."""
        return -(-tokens // self.block_size)

    def chunk(self, tokens: int) -> int:
        """The most of so many tokens that one request may have in a pass, whatever the budget."""
        return min(tokens, self.long_prefill_token_threshold or tokens)
