"""The textbook machine's host: its workers, the memory that they and the link read, and who is waited for."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any

import simpy

from policies.api import Policy, Setup
from tests.sim.machine.textbook_state import (
    CPU_EXPERTS,
    DEMAND_COPY,
    DROPPED,
    LATE_PREFETCH,
    QUEUEING,
    USED,
    WASTED,
    Events,
    Load,
)

# Facts of one instant come in this order; SimPy's own bookkeeping (0 and 1) settles between them.
CHUNK, PREDICTION, HOST, EXPERT, GATE = 2, 3, 4, 5, 6

Process = Generator[simpy.Event, Any, None]


@dataclass(slots=True, eq=False)
class Job:
    """An expert that is to be computed by the host."""

    expert: int
    tokens: int
    begun: bool = False
    ended: bool = False
    dropped: bool = False
    """Not to be begun any more."""


class WithHost(Events):
    """An event's experts on the host, beside a link whose lanes ``copying`` is on."""

    def __init__(self, policy: Policy, setup: Setup) -> None:
        super().__init__(policy, setup)
        self.env = simpy.Environment()
        self.copying: list[Load] = []  # on a lane, not those that wait for one
        self.charged_until = 0  # what the link did is in the accounts
        self.woken: simpy.Event | None = None
        self.waiting_since = 0
        self.tokens: dict[int, int] = {}  # of the event
        self.workers = simpy.Resource(self.env, capacity=setup.host.workers if setup.host else 1)
        self.hosted: list[int] = []  # not computed by the host
        self.to_start: list[Job] = []  # of the event, then of the next
        self.early: dict[int, Job] = {}  # of the next event, by expert
        self.forsaken: list[int] = []  # begun early and not ended, and of no use
        self.host_is_last = False
        self.host_ended: simpy.Event | None = None
        self.reading: list[tuple[int, Fraction, bool]] = []  # until when, how fast alone, and whether it is the link

    def after(self, duration: int, fact: float) -> simpy.Event:
        event = self.env.event()
        event._ok, event._value = True, None  # as simpy.Timeout does, which has no priority
        self.env.schedule(event, fact, duration)
        return event

    def set_places(self, placed: Sequence[int], asked: dict[int, int]) -> None:
        """The host's part of an event, and what it is to begin of the next."""
        self.settle(placed)
        self.host_is_last = self.policy.serial() and len(placed) < len(self.tokens)
        self.accounts.precomputed += len(asked)
        self.early = {expert: Job(expert, tokens) for expert, tokens in asked.items()}
        self.to_start += self.early.values()

    def settle(self, placed: Sequence[int]) -> None:
        """An event has these experts on the host: what was begun early is of use now or never."""
        early, fates = self.early, self.accounts.precomputed_fates
        for expert, job in early.items():
            if expert in placed:
                fates[USED] += 1
                self.accounts.stale[self.phase] += job.tokens
            else:
                fates[WASTED if job.begun else DROPPED] += 1
                if job.begun and not job.ended:
                    self.forsaken.append(expert)
            job.dropped = not job.begun
        begun = [expert for expert, job in early.items() if job.begun]
        self.hosted = [expert for expert in placed if expert not in begun or not early[expert].ended]
        self.to_start = [Job(expert, self.tokens[expert]) for expert in placed if expert not in begun]
        self.early = {}

    def start_the_host(self) -> None:
        for job in self.to_start:
            self.env.process(self.host_computes(job))
        self.to_start = []

    def host_computes(self, job: Job) -> Process:
        host, expert, layer = self.setup.host, job.expert, self.setup.layer_of(job.expert)
        assert host is not None
        with self.workers.request() as turn:
            yield turn
            if job.dropped:
                return
            job.begun = True
            duration = self.read(self.setup.expert_bytes[layer], host.expert_ns(layer, job.tokens), by_link=False)
            self.accounts.host_ns += duration
            yield self.after(duration, HOST)
        self.charge()
        if expert in self.forsaken:  # whichever of the two it was
            self.forsaken.remove(expert)
        elif expert in self.hosted:
            self.hosted.remove(expert)
            if not self.hosted and self.host_ended is not None:
                self.host_ended.succeed()
        else:
            self.early[expert].ended = True

    def rest_of_the_host(self) -> Process:
        if self.host_is_last:
            self.start_the_host()
        if self.hosted:
            since, self.host_ended = self.env.now, self.env.event()
            yield self.host_ended
            self.host_ended = None
            self.accounts.stall_ns[self.kind][self.layer][CPU_EXPERTS] += self.env.now - since

    def read(self, nbytes: int, alone: int, *, by_link: bool) -> int:
        """Begin to read from the host's memory; returns how long that takes beside the others who do.

        How fast a lane of the link is alone is said of all lanes at once: among themselves they are as fast.
        """
        dram, now = self.setup.host.dram if self.setup.host else None, self.env.now
        if alone == 0 or dram is None:
            return alone
        rate, share = Fraction(nbytes, alone), Fraction(1)
        self.reading = [entry for entry in self.reading if entry[0] > now]
        others = [(other, is_link) for _, other, is_link in self.reading]
        if [1 for _, is_link in others if not (is_link and by_link)]:
            share = min(share, dram / (rate + sum(other for other, _ in others)))
        duration = ceil(alone / share)
        self.reading.append((now + duration, rate, by_link))
        return duration

    def charge(self) -> None:
        """What is on the lanes or on the host changes now: what they did until now, and who waited for it."""
        now, since = self.env.now, self.charged_until
        self.accounts.link_busy_ns += len(self.copying) * (now - since)
        if self.copying and self.woken is not None:
            on_lanes = [
                QUEUEING if load.speculative else LATE_PREFETCH if load.upgraded else DEMAND_COPY
                for load in self.copying
            ]
            cause = next(cause for cause in (DEMAND_COPY, LATE_PREFETCH, QUEUEING) if cause in on_lanes)
            to_start = [job.expert for job in self.to_start]
            if cause == QUEUEING and [expert for expert in self.hosted if expert not in to_start]:
                cause = CPU_EXPERTS
            self.accounts.stall_ns[self.kind][self.layer][cause] += now - max(since, self.waiting_since)
        self.charged_until = now
