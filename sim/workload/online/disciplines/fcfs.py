"""First come, first served: vLLM V1's default."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from sim.workload.online.schedule import Draft, Job, Limits, Scheduler


class FirstComeFirstServed(Scheduler):
    """Running instances first, in the order of their admission, then the queue, in the order of arrival.

    Where KV blocks run out, the last admitted loses its own, goes to the head of the queue, and computes all again; in
    such a step nobody is admitted. vLLM V1's scheduler with ``policy=fcfs``. O(batch) per pass.
    """

    name = "fcfs"

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self.queue: deque[Job] = deque()

    def enqueue(self, job: Job) -> None:
        self.queue.append(job)

    def requeue(self, job: Job) -> None:
        self.queue.appendleft(job)

    def head(self) -> Job | None:
        """Who is next in the queue."""
        return self.queue[0] if self.queue else None

    def leave(self) -> None:
        """The next in the queue leaves it."""
        self.queue.popleft()

    def victim(self) -> Job:
        """Whose KV blocks are taken."""
        return self.running[-1]

    def plan(self, draft: Draft) -> None:
        self.serve(draft, tuple(self.running))
        if not draft.stopped:
            self.admit_waiting(draft)

    def serve(self, draft: Draft, jobs: Iterable[Job]) -> None:
        """Of those that run, each of ``jobs`` has its tokens; the step ends with one that has to yield itself."""
        for job in jobs:
            if draft.budget <= 0:
                return
            if not job.blocks:  # preempted for one before it
                continue
            tokens = self.wanted(job, draft)
            while not self.give(draft, job, tokens):
                victim = self.victim()
                self.preempt(draft, victim)
                if victim is job:
                    return

    def admit_waiting(self, draft: Draft) -> None:
        """The queue, as far as budget, ``max_num_seqs`` and KV blocks go; the first that does not fit ends it."""
        while draft.budget > 0 and len(self.running) < self.limits.max_num_seqs and (job := self.head()) is not None:
            if self.must_wait(job, draft) or not self.admit(draft, job, self.wanted(job, draft)):
                return
            self.leave()
