"""The textbook machine's layer event: what is demanded, and the order in which it is copied and computed (rule 3)."""

from policies.api import LayerEvent, Policy, Schedule, Setup
from tests.sim.machine.textbook_loads import LATE, USEFUL, Load, Loads

# Of a quality row: the names of sim/core/accounts.py, written out again.
KEPT_MASS, GATE_MASS, SLOTS, SUBSTITUTED, SKIPPED, LOW_PRECISION, UNSTATED = 0, 1, 2, 3, 4, 5, 6


class Events(Loads):
    """The event under way, without any time."""

    def __init__(self, policy: Policy, setup: Setup) -> None:
        super().__init__(policy, setup)
        self.phase = self.layer = 0
        self.arrived: list[int] = []  # complete and not computed, in order of completion
        self.turns: list[int] | None = None  # not computed, in the policy's order
        self.ranks: dict[int, int] = {}  # places in the order of copying
        self.ahead: int | None = None
        self.held: list[Load] = []  # missing, and not to be queued yet

    def route(self, event: LayerEvent) -> None:
        """Let the policy put other experts into the place of those demanded."""
        routing = self.policy.route(event)
        quality = self.accounts.quality[self.phase]
        if routing is not None:
            event.demand, event.tokens = list(routing.demand), list(routing.tokens)
            quality[KEPT_MASS] += routing.kept_mass
            quality[GATE_MASS] += routing.gate_mass
            quality[SLOTS] += routing.slots
            quality[SUBSTITUTED] += routing.substituted
            quality[SKIPPED] += routing.skipped
            quality[LOW_PRECISION] += routing.low_precision
        elif not self.policy.lossless:
            quality[SLOTS] += sum(event.tokens)
            quality[UNSTATED] += 1

    def set_order(self, event: LayerEvent, schedule: Schedule) -> None:
        """Order the event's computations and copies."""
        self.turns = None if schedule.compute is None else list(schedule.compute)
        self.ahead = schedule.ahead
        by_copy = schedule.copy or schedule.compute or event.demand
        self.ranks = {expert: place for place, expert in enumerate(by_copy)}
        if self.ahead is not None:
            self.held = [load for load in self.demand if not load.upgraded]
            self.demand = [load for load in self.demand if load.upgraded]
        self.queue_what_is_near()

    def queue_what_is_near(self) -> None:
        if self.turns is not None and self.ahead is not None:
            near = [load for load in self.held if load.expert in self.turns[: self.ahead + 1]]
            self.held = [load for load in self.held if load not in near]
            self.demand += near
        self.demand.sort(key=lambda load: self.ranks[load.expert])

    def want(self, expert: int, load: Load | None) -> None:
        """A gate has demanded this expert."""
        if load is None:
            load = self.loads[expert] = Load(expert, self.chunks[self.layer], speculative=False)
            self.demand.append(load)
        elif load.complete:
            if load.speculative:
                self.meet_fate(load, USEFUL)
            self.arrived.append(expert)
        else:
            self.meet_fate(load, LATE)
            self.unqueue(load)
            load.upgraded, load.dropped = True, False
            if load.handed < len(load.chunks):
                self.demand.append(load)
        load.speculative = False

    def next_in_turn(self) -> int | None:
        if self.turns is None:
            return self.arrived[0] if self.arrived else None
        return self.turns[0] if self.turns[0] in self.arrived else None
