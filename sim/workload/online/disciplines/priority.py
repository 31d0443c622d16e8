"""The smallest priority first, and of equal ones who came first: vLLM V1's ``policy=priority``."""

from __future__ import annotations

from heapq import heappop, heappush

from sim.workload.online.disciplines.fcfs import FirstComeFirstServed
from sim.workload.online.schedule import Job, Limits

Rank = tuple[int, int, int]


class Priority(FirstComeFirstServed):
    """The queue by (priority, arrival); where KV blocks run out, the largest of these that runs loses its own.

    Whoever runs is served before the queue, so that an urgent arrival waits for a place, and takes nobody's. One who
    was preempted takes its old place in the queue. vLLM V1's scheduler. O(batch) per pass and preemption.
    """

    name = "priority"

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self.heap: list[tuple[Rank, Job]] = []

    def enqueue(self, job: Job) -> None:
        heappush(self.heap, (_rank(job), job))

    def requeue(self, job: Job) -> None:
        self.enqueue(job)

    def head(self) -> Job | None:
        return self.heap[0][1] if self.heap else None

    def leave(self) -> None:
        heappop(self.heap)

    def victim(self) -> Job:
        return max(self.running, key=_rank)


def _rank(job: Job) -> Rank:
    return job.arrival.priority, job.arrival.time_ns, job.arrival.id
