"""The simulated machine, and its clock: SimPy's, which sees one timeout per pass."""

from collections.abc import Callable, Generator, Iterable, Sequence
from fractions import Fraction

import simpy

from sim.core.accounts import Accounts
from sim.core.core import Core
from sim.core.several import SeveralCore
from sim.core.tiers import TieredCore
from sim.machine.behind import Behind
from sim.machine.disk import Reads, WithDisk
from sim.machine.gpu import Gpu
from sim.machine.host import Root, WithHost
from sim.machine.link import Lanes, Link
from sim.machine.listener import NOBODY, SpanListener
from sim.machine.page_cache import PageCache
from sim.machine.predictor import Predictor
from sim.machine.several import Gpus
from sim.machine.timings import Timings, served_timings
from sim.prices.costs import Costs
from sim.workload.online.feed import Serving
from sim.workload.passes import Pass


class Machine:
    """Replays passes on as many GPUs as the core has.

    ``progress`` is told the rows of each pass that has ended, ``listener`` all spans (of each of several GPUs apart).
    ``policy_ns``: the policy's own time, per prefill and per decode pass. It is spread evenly over the pass's layer
    events, the first one's with the remainder (a pass without any has decided nothing): after each gate compute waits
    for it, within ``compute_ns``, while copies go on.

    ``root``: bytes per ns that the links of several GPUs have together; ``peer_ns``: of so many tokens from one to
    another; ``all_reduce_ns``: of so many at the end of each layer, where one stands for several. ``reads``: of
    the disk, where the core has one below it.
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
        root: Fraction | None = None,
        peer_ns: Callable[[int], int] = int,
        all_reduce_ns: Callable[[int], int] | None = None,
        reads: Reads | None = None,
    ) -> None:
        self.core, self.progress, self.listener = core, progress, listener or NOBODY
        copy_ns = [costs.copy_ns(b) for b in core.state.chunk_bytes]
        predictor = Predictor(predictor_threads, self.listener)
        self.disk: Link | None = None
        self.pages: PageCache | None = None
        self.gpu: Gpu | Gpus
        self.links: Sequence[Link]
        if isinstance(core, SeveralCore):
            several = Gpus(
                core,
                costs,
                copy_ns,
                depth=depth,
                lanes=lanes,
                root=Root(root),
                peer_ns=peer_ns,
                predictor=predictor,
                policy_ns=policy_ns,
                listener=self.listener,
            )
            self.gpu = several
            self.links = several.links
        else:
            behind: Behind
            if isinstance(core, TieredCore):
                assert reads is not None
                behind = WithDisk(core, copy_ns, depth, lanes, reads, predictor, self.listener)
                self.disk = behind.disk
                self.pages = behind.pages if reads.page_cache else None
            elif core.places is not None and core.setup.host is not None:
                behind = WithHost(core, core.setup.host, copy_ns, depth, lanes, predictor, self.listener)
            else:
                link = Link(core, copy_ns, depth) if lanes == 1 else Lanes(core, copy_ns, depth, lanes)
                behind = Behind(core, link, predictor, self.listener)
            self.gpu = Gpu(core, costs, behind, self.listener, policy_ns, all_reduce_ns)
            self.links = [behind.link]
        self.timings = Timings()
        self.env = simpy.Environment()

    def run(self, warmup: Iterable[Pass], measured: Iterable[Pass] | Serving) -> Accounts:
        """Replay ``warmup``, then ``measured``, or what arrives; the accounts are those of the latter."""
        start = self._replay(warmup)
        if self.gpu.steps:
            self.core.measure_from(start)
            for link in (*self.links, *filter(None, [self.disk])):
                link.busy_ns = link.busy_after(start)
            if self.pages is not None:
                self.pages.measure()
            self.timings = Timings()
            self.listener.start(start)
        now = self._replay(measured)
        busy = [link.busy_ns - link.busy_after(now) for link in self.links]
        self.core.accounts.link_busy_ns = sum(busy)
        for gpu, busy_ns in zip(self.core.accounts.by_gpu, busy, strict=False):
            gpu.link_busy_ns = busy_ns
        if self.disk is not None and self.core.accounts.tier is not None:
            self.core.accounts.tier.busy_ns = self.disk.busy_ns - self.disk.busy_after(now)
            self.core.accounts.tier.page_cache = None if self.pages is None else self.pages.counts
        return self.core.finish(now)

    def _replay(self, passes: Iterable[Pass] | Serving) -> int:
        self.env.process(self._served(passes) if isinstance(passes, Serving) else self._passes(passes))
        self.env.run()
        return int(self.env.now)

    def _passes(self, passes: Iterable[Pass]) -> Generator[simpy.Event, object, None]:
        """One pass after the other."""
        for step in passes:
            began = int(self.env.now)
            ended = self.gpu.run(step, began)
            self.core.accounts.pass_ns[step.kind] += ended - began
            yield self.env.timeout(ended - began)
            self.timings.note(step, began, ended)
            if self.progress is not None:
                self.progress(step.rows)

    def _served(self, serving: Serving) -> Generator[simpy.Event, object, None]:
        """What runs next is asked for when a pass has ended. While nobody is there copies and predictions go on; what
        ends at the moment of an arrival is told before the pass that begins then."""
        while (step := serving.next_pass(int(self.env.now))) is not None:
            began = int(self.env.now)
            if isinstance(step, int):
                self.gpu.idle(began, step)
                yield self.env.timeout(step - began)
                continue
            ended = self.gpu.run(step, began)
            self.core.accounts.pass_ns[step.kind] += ended - began
            yield self.env.timeout(ended - began)
            serving.ended(ended)
            if self.progress is not None:
                self.progress(step.rows)
        self.timings = served_timings(serving)
