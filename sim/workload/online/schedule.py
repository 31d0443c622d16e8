"""What the next pass computes, of the requests that have arrived: the words, and what every discipline shares.

A scheduler has no clock and reads no trace: facts come with their time, and of a request it knows its lengths alone.
Step semantics and names of limits are those of vLLM V1's scheduler (its ``vllm/v1/core/sched``): a request has a
number of tokens that are computed and a number that are known, and each pass hands out a budget of tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from sim.workload.online.batch import Arrival as Arrival
from sim.workload.online.batch import Batch as Batch
from sim.workload.online.batch import Limits as Limits
from sim.workload.online.batch import Share as Share
from sim.workload.online.by_layer import pieces_of
from traces.kit.errors import UserError


@dataclass(slots=True, eq=False)
class Job:
    """An instance in the scheduler."""

    arrival: Arrival
    generated: int = 0
    """Output tokens that it has."""
    computed: int = 0
    """Tokens in the KV cache; 0 after a preemption."""
    reached: int = 0
    """The most that were ever computed: what lies below is computed again."""
    blocks: int = 0

    @property
    def rest(self) -> int:
        """Tokens that are known and not computed: 1 where it decodes, the rest of a prompt, or all after preemption."""
        return self.arrival.prompt_tokens + self.generated - self.computed

    @property
    def decodes(self) -> bool:
        """Whether all that it lacks is the row of its last output token."""
        return self.generated > 0 and self.rest == 1


@dataclass(slots=True)
class Draft:
    """A batch that is being planned."""

    budget: int
    """Tokens that may still be handed out; below 0 where a prompt that is taken whole was longer than what was left."""
    tokens: dict[Job, int] = field(default_factory=dict)
    """Those that were handed out, in this order."""
    admitted: list[Job] = field(default_factory=list)
    preempted: list[Job] = field(default_factory=list)
    stopped: bool = False
    """Whether this step has preempted: it then admits nobody."""


class Scheduler(ABC):
    """Who computes what in the next pass. A discipline says in which order (:meth:`plan`), this class the rest.

    The order of calls: ``arrive`` at any time, also while a pass is under way; ``next_pass`` when the machine is free;
    ``done`` when that pass has ended. Answers follow from the calls and their order alone. Memory is that of the
    instances that have not ended.
    """

    name: ClassVar[str]
    chunks_only: ClassVar[str] = ""
    """Why it has no meaning for prompts that go through layers whole; "": it has one."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.running: list[Job] = []
        """Those with KV blocks, in the order in which they are served."""
        self.free = limits.kv_blocks
        self.preemptions = 0
        self._batch: Batch | None = None
        self._jobs: dict[int, Job] = {}

    # What a discipline does.

    @abstractmethod
    def enqueue(self, job: Job) -> None:
        """Put an arrival into the queue."""

    @abstractmethod
    def requeue(self, job: Job) -> None:
        """Put an instance that was preempted back into the queue."""

    @abstractmethod
    def plan(self, draft: Draft) -> None:
        """One step: hand out tokens by ``give``, ``admit`` and ``preempt``, and count nothing."""

    # What a machine asks.

    def arrive(self, arrival: Arrival, now: int) -> None:
        """A request has arrived. UserError where it can never be served, ValueError for a time that is not come."""
        if arrival.time_ns > now:
            raise ValueError(f"instance {arrival.id} arrives at {arrival.time_ns} ns, and it is {now} ns")
        if arrival.id in self._jobs:
            raise ValueError(f"instance {arrival.id} has arrived already")
        check_fits(arrival, self.limits)
        self._jobs[arrival.id] = job = Job(arrival)
        self.enqueue(job)

    def next_pass(self, now: int) -> Batch | None:
        """What the next pass computes; None: nothing, until somebody arrives. RuntimeError while one is under way."""
        if self._batch is not None:
            raise RuntimeError("a pass is under way")
        draft = Draft(self.limits.max_num_batched_tokens)
        while self._jobs and not draft.tokens:
            before = len(draft.preempted)
            draft.stopped = False
            self.plan(draft)
            if not draft.tokens and len(draft.preempted) == before:
                raise RuntimeError(f"{self.name}: {len(self._jobs)} instances, and none is served")
        if not draft.tokens:
            return None
        shares = tuple(self._share(job, tokens) for job, tokens in draft.tokens.items())
        pieces = pieces_of(shares, self.limits) if self.limits.layer_major else ()
        self._batch = Batch(shares, _ids(draft.admitted), _ids(draft.preempted), pieces)
        return self._batch

    def done(self, batch: Batch, now: int) -> tuple[int, ...]:
        """The pass has ended at ``now``: its tokens are computed. Those that have all their output end: their ids."""
        if batch is not self._batch:
            raise RuntimeError("another pass is under way")
        self._batch, ended = None, []
        for share in batch.shares:
            job = self._jobs[share.id]
            job.computed += share.tokens
            job.reached = max(job.reached, job.computed)
            job.generated += share.yields
            if job.generated == job.arrival.output_tokens:
                ended.append(job)
        for job in ended:
            self._release(job)
            del self._jobs[job.arrival.id]
        if ended:
            self.running = [job for job in self.running if job.arrival.id in self._jobs]
        return _ids(ended)

    @property
    def waiting(self) -> int:
        """How many are in the queue."""
        return len(self._jobs) - len(self.running)

    # What disciplines have in common.

    def wanted(self, job: Job, draft: Draft) -> int:
        """How many tokens an instance is to have, while some of the budget is left."""
        rest = job.rest
        return rest if rest == 1 or self.limits.layer_major else min(self.limits.chunk(rest), draft.budget)

    def must_wait(self, job: Job, draft: Draft) -> bool:
        """Whether what is left of the budget would cut a prompt that is not to be cut."""
        return not self.limits.enable_chunked_prefill and self.limits.chunk(job.rest) > draft.budget

    def give(self, draft: Draft, job: Job, tokens: int) -> bool:
        """Hand out tokens, with the KV blocks that they need; False, and nothing is done, where these are not there."""
        if not self.hold(job, job.computed + tokens):
            return False
        draft.tokens[job] = tokens
        draft.budget -= tokens
        return True

    def hold(self, job: Job, tokens: int) -> bool:
        """Let an instance have KV blocks for so many tokens in all; False, and nothing is done, without as many."""
        if tokens <= job.blocks * self.limits.block_size:
            return True
        more = self.limits.blocks(tokens) - job.blocks
        if self.free is not None:
            if more > self.free:
                return False
            self.free -= more
        job.blocks += more
        return True

    def admit(self, draft: Draft, job: Job, tokens: int) -> bool:
        """As ``give``, to one that leaves the queue, from which the discipline takes it."""
        if not self.give(draft, job, tokens):
            return False
        self.running.append(job)
        draft.admitted.append(job)
        return True

    def preempt(self, draft: Draft, job: Job) -> None:
        """Take an instance's KV blocks, and what it was given in this step. It computes all of its tokens again."""
        self.running.remove(job)
        self._release(job)
        draft.budget += draft.tokens.pop(job, 0)
        job.computed = 0
        draft.stopped, just_now = True, job in draft.admitted
        (draft.admitted.remove if just_now else draft.preempted.append)(job)  # who came in this step was never there
        self.preemptions += not just_now
        self.requeue(job)

    def _release(self, job: Job) -> None:
        if self.free is not None:
            self.free += job.blocks
        job.blocks = 0

    @staticmethod
    def _share(job: Job, tokens: int) -> Share:
        again = max(job.arrival.prompt_tokens, job.reached) - job.computed
        rows = tokens if tokens <= again else max(0, again)
        return Share(job.arrival.id, job.computed, tokens, rows, tokens == job.rest)


def check_fits(arrival: Arrival, limits: Limits) -> None:
    """UserError for a request that could never be served, however long it waits."""
    about = f"request {arrival.request} ({arrival.prompt_tokens} prompt and {arrival.output_tokens} output tokens)"
    needs = limits.blocks(arrival.tokens)
    if limits.kv_blocks is not None and needs > limits.kv_blocks:
        raise UserError(
            f"kv: {about} needs {needs} blocks of {limits.block_size} tokens, and there are {limits.kv_blocks};"
            " allowed: room for each request alone"
        )
    if not limits.enable_chunked_prefill and (most := limits.chunk(arrival.tokens)) > limits.max_num_batched_tokens:
        raise UserError(
            f"workload.max_num_batched_tokens={limits.max_num_batched_tokens}: {about} has up to {most} tokens to"
            f" compute in one pass (after a preemption, all); allowed: at least {most}, or"
            " workload.enable_chunked_prefill=true"
        )


def _ids(jobs: Iterable[Job]) -> tuple[int, ...]:
    return tuple(job.arrival.id for job in jobs)
