"""Output before prompts, and prompts in turn."""

from __future__ import annotations

from sim.workload.online.disciplines.fcfs import FirstComeFirstServed
from sim.workload.online.schedule import Draft


class DecodeFirstRoundRobin(FirstComeFirstServed):
    """As ``fcfs``, but who decodes is served before any prompt, and prompts under way take turns, a chunk each.

    MoE-Infinity's scheduler of 2026. Where KV blocks run out, who would be served last loses its own: a prompt
    under way before one that decodes. That choice is ours; the ageing of prompts is left out. O(batch) per pass.
    """

    name = "decode_first_round_robin"

    def plan(self, draft: Draft) -> None:
        self.running.sort(key=lambda job: not job.decodes)  # stable: the order of turns stays
        super().plan(draft)
        turned = {job for job in draft.tokens if not job.decodes}
        self.running = [job for job in self.running if job not in turned] + [j for j in self.running if j in turned]
