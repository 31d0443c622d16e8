"""Output before prompts, and prompts in turn."""

from __future__ import annotations

from sim.workload.online.disciplines.fcfs import FirstComeFirstServed
from sim.workload.online.schedule import Draft, Job


class DecodeFirstRoundRobin(FirstComeFirstServed):
    """Whoever decodes is served before any prompt; up to ``max_num_seqs`` with these, prompts take turns, a chunk each.

    MoE-Infinity's scheduler of 2026. Who arrives has the last turn, and a prompt that has had its chunk goes behind it.
    Where KV blocks run out, a prompt loses its own before one that decodes, and of each kind who came last (whose turn
    is last would not do: prompts could rob each other forever); in such a step no prompt begins. That choice is ours,
    and the ageing of prompts is left out. O(batch) per pass and preemption.
    """

    name = "decode_first_round_robin"
    chunks_only = "serves prompts in turn, a chunk each"

    def plan(self, draft: Draft) -> None:
        while len(self.running) < self.limits.max_num_seqs and (job := self.head()) is not None:
            self.running.append(job)
            self.leave()
        self.running.sort(key=lambda job: not job.decodes)  # stable: the order of turns stays
        if self._in_turn(draft):
            turned = {job for job in draft.tokens if not job.decodes}
            self.running = [job for job in self.running if job not in turned] + [j for j in self.running if j in turned]

    def victim(self) -> Job:
        holders = (job for job in self.running if job.blocks)
        return max(holders, key=lambda job: (not job.decodes, job.arrival.time_ns, job.arrival.id))

    def _in_turn(self, draft: Draft) -> bool:
        """Serve them; False if there were no prompts."""
        begin, prompts = True, False
        for job in tuple(self.running):
            prompts = prompts or not job.decodes
            if job.blocks:
                self.serve(draft, (job,))
                if not job.blocks:  # it had to yield its own
                    return prompts
            elif begin and draft.budget and not draft.stopped and job in self.running:
                begin = not self.must_wait(job, draft) and self.give(draft, job, self.wanted(job, draft))
                if begin:
                    draft.admitted.append(job)
        return prompts
