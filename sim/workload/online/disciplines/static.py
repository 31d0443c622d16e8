"""One batch after the other, as papers measure: nobody joins before all have ended."""

from __future__ import annotations

from sim.workload.online.disciplines.fcfs import FirstComeFirstServed
from sim.workload.online.schedule import Draft


class StaticBatches(FirstComeFirstServed):
    """When nobody runs, up to ``max_num_seqs`` of the queue form a batch: all prompts first, then all decode.

    Request-level batching, without padding. It does not wait for a full batch. KV blocks are set aside for all that a
    request computes, so that nobody is preempted: whoever finds too few waits for the next batch. O(batch) per pass.
    """

    name = "static"

    def plan(self, draft: Draft) -> None:
        if not self.running:
            self._form()
        prompts = [job for job in self.running if not job.decodes]
        for job in prompts or self.running:
            if draft.budget <= 0 or self.must_wait(job, draft):
                return
            self.give(draft, job, self.wanted(job, draft))
            if not job.computed:
                draft.admitted.append(job)

    def _form(self) -> None:
        while len(self.running) < self.limits.max_num_seqs and (job := self.head()) is not None:
            if not self.hold(job, job.arrival.tokens):
                return
            self.running.append(job)
            self.leave()
