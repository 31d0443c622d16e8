"""What a device makes of a scheduler's batch: passes of one kind, one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace

from sim.workload.online.arrivals import Traffic
from sim.workload.online.feed import Serving
from sim.workload.online.rows import Rows
from sim.workload.online.schedule import Batch, Scheduler, Share
from sim.workload.step import Pass


class Apart(Serving):
    """As the simulator serves, but for one thing: a batch is as many passes as it has prompts, and one of decode rows.

    A forward pass of a transformers model has a rectangle of tokens, so that rows of a prompt and single tokens of
    others are in one pass only with padding, which a router would route like tokens. So each prompt of a batch is a
    pass, in the batch's order, and all decode rows are one, the last; each layer event is the union over the rows of
    its pass. The scheduler is told of the batch when its last pass has ended, and plans the next one then; a token is
    there when its own pass has. Whatever the discipline, no pass is mixed.
    """

    def __init__(self, traffic: Traffic, scheduler: Scheduler, rows: Rows, *, keep: bool = False) -> None:
        super().__init__(traffic, scheduler, rows, keep=keep)
        self._whole: Batch | None = None
        self._left: deque[Batch] = deque()

    @property
    def batch(self) -> Batch:
        """What the pass that was answered last computes; ``preempted``: who lost its KV blocks before it."""
        assert self._batch is not None
        return self._batch

    def next_pass(self, now: int) -> Pass | int | None:
        if self._left:
            assert self.start is not None
            return self._next(now - self.start)
        return super().next_pass(now)

    def _begin(self, batch: Batch, now: int) -> Pass:
        self._whole = batch
        self._left.extend(apart(batch))
        return self._next(now)

    def _next(self, now: int) -> Pass:
        self._batch = part = self._left.popleft()
        return super()._begin(part, now)

    def ended(self, now: int) -> None:
        assert self._whole is not None
        assert self.start is not None
        self.ledger.ended(self.batch, now - self.start)
        if not self._left:
            self.scheduler.done(self._whole, now - self.start)


def apart(batch: Batch) -> Iterator[Batch]:
    """The batches of one kind that a batch is, at least one.

    Rows that are computed again are a prompt's, and the decode row after them, where there is one, is among the others.
    """
    prompts = [_cut(share, share.prompt_tokens) for share in batch.shares if share.prompt_tokens]
    decode = tuple(
        Share(share.id, share.start + share.prompt_tokens, share.tokens - share.prompt_tokens, 0, share.yields)
        for share in batch.shares
        if share.tokens > share.prompt_tokens
    )
    parts = [(share,) for share in prompts] + ([decode] if decode else [])
    admitted, preempted = set(batch.admitted), batch.preempted
    for shares in parts:
        now = tuple(share.id for share in shares if share.id in admitted)
        yield replace(batch, shares=shares, admitted=now, preempted=preempted)
        admitted.difference_update(now)
        preempted = ()


def _cut(share: Share, tokens: int) -> Share:
    """The first tokens of a share, all of which it may be."""
    return share._replace(tokens=tokens, yields=share.yields and tokens == share.tokens)
