"""Prompts before output: a pass is of prompts alone while there are any, else of everybody's next token."""

from __future__ import annotations

from sim.workload.online.disciplines.fcfs import FirstComeFirstServed
from sim.workload.online.schedule import Draft, Job


class PrefillFirst(FirstComeFirstServed):
    """Prompts under way and then the queue, as far as budget, ``max_num_seqs`` and KV blocks go; else a decode pass.

    SGLang's order without mixed chunks. A prompt that lacks KV blocks waits for those who decode. Where these (or, if
    nobody decodes, the prompts) lack some, the one with the fewest output tokens loses its own, of equal ones that with
    the longest prompt, then the last admitted: it goes to the end of the queue, and computes all again. SGLang also
    sets aside blocks for several tokens to come, which is left out. O(batch) per pass and preemption.
    """

    name = "prefill_first"

    def requeue(self, job: Job) -> None:
        self.enqueue(job)

    def plan(self, draft: Draft) -> None:
        decoding = [job for job in self.running if job.decodes]
        prompts = [job for job in self.running if not job.decodes]
        if all(self.give(draft, job, self.wanted(job, draft)) for job in prompts if draft.budget > 0):
            self.admit_waiting(draft)
        if not draft.tokens:
            self.serve(draft, decoding or prompts)

    def victim(self) -> Job:
        return max(reversed(self.running), key=lambda job: (-job.generated, job.arrival.prompt_tokens))
