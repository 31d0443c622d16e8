"""The simulated machine, and its clock: SimPy's, which sees one timeout per pass."""

from collections.abc import Callable, Generator, Iterable

import simpy

from sim.core.accounts import Accounts
from sim.core.core import Core
from sim.machine.behind import Behind
from sim.machine.gpu import Gpu
from sim.machine.host import WithHost
from sim.machine.link import Lanes, Link
from sim.machine.listener import NOBODY, SpanListener
from sim.machine.predictor import Predictor
from sim.machine.timings import Timings
from sim.prices.costs import Costs
from sim.workload.passes import Pass


class Machine:
    """Replays passes on one GPU; ``progress`` is told the rows of each pass that has ended, ``listener`` all spans.

    ``policy_ns``: the policy's own time, per prefill and per decode pass. It is spread evenly over the pass's layer
    events, the first one's with the remainder (a pass without any has decided nothing): after each gate compute waits
    for it, within ``compute_ns``, while copies go on.
    """

    def __init__(
        self,
        core: Core,
        costs: Costs,
        *,
        depth: int = 1,
        lanes: int = 1,
        predictor_threads: int = 1,
        progress: Callable[[int], None] | None = None,
        listener: SpanListener | None = None,
        policy_ns: tuple[int, int] = (0, 0),
    ) -> None:
        self.core, self.progress, self.listener = core, progress, listener or NOBODY
        copy_ns = [costs.copy_ns(b) for b in core.state.chunk_bytes]
        predictor = Predictor(predictor_threads, self.listener)
        if core.places is not None and core.setup.host is not None:
            behind: Behind = WithHost(core, core.setup.host, copy_ns, depth, lanes, predictor, self.listener)
        else:
            link = Link(core, copy_ns, depth) if lanes == 1 else Lanes(core, copy_ns, depth, lanes)
            behind = Behind(core, link, predictor, self.listener)
        self.link = behind.link
        self.gpu = Gpu(core, costs, behind, self.listener, policy_ns)
        self.timings = Timings()
        self.env = simpy.Environment()

    def run(self, warmup: Iterable[Pass], measured: Iterable[Pass]) -> Accounts:
        """Replay ``warmup``, then ``measured``; the accounts are those of the latter."""
        start = self._replay(warmup)
        if self.gpu.steps:
            self.core.measure_from(start)
            self.link.busy_ns = self.link.busy_after(start)
            self.timings = Timings()
            self.listener.start(start)
        now = self._replay(measured)
        self.core.accounts.link_busy_ns = self.link.busy_ns - self.link.busy_after(now)
        return self.core.finish(now)

    def _replay(self, passes: Iterable[Pass]) -> int:
        self.env.process(self._passes(passes))
        self.env.run()
        return int(self.env.now)

    def _passes(self, passes: Iterable[Pass]) -> Generator[simpy.Event, object, None]:
        """One pass after the other; with arrivals, the next one is asked for here, and may be waited for."""
        for step in passes:
            began = int(self.env.now)
            ended = self.gpu.run(step, began)
            yield self.env.timeout(ended - began)
            self.timings.note(step, began, ended)
            if self.progress is not None:
                self.progress(step.rows)
