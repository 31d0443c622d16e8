"""Several GPUs: each has its pool, its link and its stream, and a layer ends with the slowest.

The dense part runs on GPU 0. Once a gate has run, the activations of its tokens travel to each other GPU that has
experts of theirs, and back when these are computed; nobody is in their way. A plain loop over what ends next: of one
instant in the order chunk, prediction, expert, and each of these by the number of the GPU.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop

from policies.api import LayerEvent
from sim.core.accounts import PREDICTOR, STALLS
from sim.core.core import WAIT
from sim.core.loads import NONE
from sim.core.several import SeveralCore
from sim.core.state import CoreError
from sim.machine.gpu import own_times
from sim.machine.host import Root, SharedLink
from sim.machine.listener import LEAD, NOBODY, SpanListener
from sim.machine.predictor import Predictor
from sim.prices.costs import Costs
from sim.workload.passes import Pass
from sim.workload.pricing import dense_of, piece_prices

CHUNK, PREDICTION, EXPERT = range(3)
"""Facts of one instant, in their order."""
NEVER = 1 << 62
_BURST = 1 << 16  # rounds of questions at one instant that no policy can mean


@dataclass(slots=True)
class Stream:
    """One GPU in a layer event: activations come, experts are computed in turn, activations go."""

    gpu: int
    peer_ns: int
    """Of the way there, and of the way back."""
    until: int | None
    """When the activations are there, or ``expert`` is computed; None: it waits for a copy, or is done."""
    expert: int = NONE
    waits: bool = False
    over: bool = False
    ended: int = 0
    """When the activations are back."""
    compute_ns: int = 0
    stall_ns: list[int] = field(default_factory=lambda: [0] * len(STALLS))


class Gpus:
    """Compute what the core gives each of them; time is a number that is handed on, in ns.

    A layer's time is that of its slowest GPU, of equals the lowest: its way, its compute and its stalls are the run's.
    """

    def __init__(
        self,
        core: SeveralCore,
        costs: Costs,
        copy_ns: Sequence[int],
        *,
        depth: int,
        lanes: int,
        root: Root,
        peer_ns: Callable[[int], int],
        predictor: Predictor,
        policy_ns: tuple[int, int],
        listener: SpanListener = NOBODY,
    ) -> None:
        self.core, self.costs, self.predictor, self.policy_ns = core, costs, predictor, policy_ns
        self.shown = [listener.of(side.gpu) for side in core.sides]
        self._watched = listener is not NOBODY
        self.peer_ns = peer_ns
        self.links = [SharedLink(side, copy_ns, depth, lanes, root) for side in core.sides]
        self._pairs = list(zip(core.sides, self.links, strict=True))
        self.predictions = predictor.under_way
        self.steps = 0
        self.streams: dict[int, Stream] = {}
        """Of the event under way, by GPU."""
        self._charged_until = 0
        self._ns: dict[int, int] = {}  # of the event's experts, with their launch

    def run(self, step: Pass, began: int) -> int:
        """One forward pass: per layer the dense part, the gate, the experts. Returns when it has ended."""
        core, costs, prompts = self.core, self.costs, step.prompt_tokens
        self.steps += 1
        stalls = core.accounts.stall_ns[step.kind]
        if step.prompt_rows:
            core.prompts(step.prompt_rows, began)
        core.step_begin(self.steps, step.prefill, step.requests, step.parts, began)
        now = self._block(began, stalls[0])
        first = self.shown[0]
        lead, dense, software, head = dense_of(step, costs)
        now = self._on_the_first(now, lead)
        first.layer(now - lead, now, LEAD)
        dense += software
        own = own_times(self.policy_ns[0 if step.prefill else 1], step)
        for layer, (demand, tokens) in enumerate(zip(step.demand, step.tokens, strict=True)):
            now = self._on_the_first(now, dense)
            first.layer(now - dense, now - software, layer)
            self._advance(now)
            if demand:
                if prompts:
                    core.prompts(prompts[layer], now)
                event = core.gate(layer, demand, tokens, now)
                now = self._event(step, event, self._block(now, stalls[layer]), own, stalls[layer])
        now = self._on_the_first(now, head)
        first.layer(now - head, now, core.setup.n_layers)
        self._advance(now)
        core.step_end(now)
        for shown in self.shown:
            shown.step(began, now, self.steps, step.prefill)
        return now

    def idle(self, now: int, until: int) -> None:
        """Nothing is to be computed, while copies go on."""
        self._advance(until)
        self.core.accounts.idle_ns += until - now
        for its in self.core.accounts.by_gpu:
            its.idle_ns += until - now

    # -- a layer event ------------------------------------------------------------------------------------------

    def _event(self, step: Pass, event: LayerEvent, now: int, own: Iterator[int] | None, stalls: list[int]) -> int:
        """What is computed once a gate has run. Returns when the last GPU has ended, and its activations are back."""
        if own is not None:
            decided = next(own)
            self.core.accounts.policy_ns += decided
            now = self._on_the_first(now, decided)
            self.shown[0].decide(now - decided, now)
            self._advance(now)
        tokens = dict.fromkeys(sorted({self.core.home[x] for x in event.demand}), 0)
        for x, n in zip(event.demand, event.tokens, strict=True):
            tokens[self.core.home[x]] += n
        if step.pieces:
            self._ns = piece_prices(
                step, event.layer, event.demand, event.tokens, self.costs, self.core.setup.n_experts
            )
        else:
            table, launch = self.costs.expert_table(event.layer, step.rows), self.costs.launch_ns
            self._ns = {x: table[n] + launch if n else 0 for x, n in zip(event.demand, event.tokens, strict=True)}
        for gpu, n in tokens.items():  # of a token, one vector goes to a GPU, however many of its experts are there
            peer_ns = self.peer_ns(min(n, step.rows)) if gpu and n else 0
            self.streams[gpu] = Stream(gpu, peer_ns, now + peer_ns)
            self.shown[gpu].peer(now, now + peer_ns)
        self._charged_until = now
        while not all(stream.over for stream in self.streams.values()):
            self._tell(*self._first())
        return self._account(now, stalls)

    def _account(self, began: int, stalls: list[int]) -> int:
        accounts, streams = self.core.accounts, self.streams
        ended = max((stream.ended for stream in streams.values()), default=began)
        slowest = next((stream for stream in streams.values() if stream.ended == ended), None)
        if slowest is not None:
            accounts.compute_ns += slowest.compute_ns
            accounts.peer_ns += 2 * slowest.peer_ns
            stalls[:] = [ns + more for ns, more in zip(stalls, slowest.stall_ns, strict=True)]
        for gpu, its in enumerate(accounts.by_gpu):
            stream = streams.get(gpu)
            self.shown[gpu].idle(began if stream is None else stream.ended, ended)
            if stream is None:
                its.idle_ns += ended - began
                continue
            its.compute_ns += stream.compute_ns
            its.expert_ns += stream.compute_ns
            its.peer_ns += 2 * stream.peer_ns
            its.stall_ns = [ns + more for ns, more in zip(its.stall_ns, stream.stall_ns, strict=True)]
            its.idle_ns += ended - stream.ended
        streams.clear()
        return ended

    def _next_expert(self, stream: Stream, now: int) -> None:
        x = self.core.next_expert_on(stream.gpu)
        stream.waits = x == WAIT
        if x >= 0:
            stream.expert, stream.until = x, now + self._ns[x]
            stream.compute_ns += self._ns[x]
            self.shown[stream.gpu].compute(now, stream.until, (x,))
        elif x != WAIT:
            stream.over, stream.ended = True, now + stream.peer_ns
            self.shown[stream.gpu].peer(now, stream.ended)

    # -- what ends, and what follows ----------------------------------------------------------------------------

    def _first(self) -> tuple[int, int, int]:
        """What ends first: (when, which kind of fact, GPU); of one instant in the order of kinds, then of GPUs."""
        first, kind, which = NEVER, CHUNK, 0
        for gpu, link in enumerate(self.links):
            if link.under_way and link.under_way[0][0] < first:
                first, which = link.under_way[0][0], gpu
        if self.predictions and self.predictions[0][0] < first:
            first, kind = self.predictions[0][0], PREDICTION
        for stream in self.streams.values():
            if stream.until is not None and stream.until < first:
                first, kind, which = stream.until, EXPERT, stream.gpu
        if first == NEVER and self.streams:
            raise CoreError("deadlock: compute waits and nothing can be copied")
        return first, kind, which

    def _advance(self, until: int) -> None:
        """Tell the core all that ends up to then, in its order."""
        while (found := self._first())[0] <= until:
            self._tell(*found)

    def _tell(self, now: int, kind: int, gpu: int) -> None:
        """Tell the core one fact, and go on."""
        core, streams = self.core, self.streams
        self._charge(now)
        stream = streams.get(gpu) if kind == EXPERT else None
        if kind == CHUNK:
            _, chunk = self.links[gpu].under_way.popleft()
            if self._watched:
                self._show_copy(gpu, chunk, now)
            core.chunk_done(chunk, now)
        elif kind == PREDICTION:
            _, _, tag = heappop(self.predictions)
            core.prediction(tag, now)
        elif stream is not None:
            stream.until = None
            if stream.expert != NONE:
                core.expert_done(stream.expert, now)
        self._go_on(now)
        if stream is not None:
            self._next_expert(stream, now)
        for stream in streams.values():
            if stream.waits and core.sides[stream.gpu].ready:
                self._next_expert(stream, now)
            if stream.waits and not self.links[stream.gpu].under_way:
                raise CoreError(f"deadlock: GPU {stream.gpu} waits and nothing can be copied to it")

    def _charge(self, now: int) -> None:
        """Each GPU that waits has waited for what was on its own link until now."""
        since, self._charged_until = self._charged_until, now
        if since == now:
            return
        kind, chunks = self.core.state.kind, self.core.state.chunks
        for stream in self.streams.values():
            if stream.waits:
                cause = min(kind[chunk // chunks] for _, chunk in self.links[stream.gpu].under_way)
                stream.stall_ns[cause] += now - since
                self.shown[stream.gpu].stall(since, now, cause)

    def _show_copy(self, gpu: int, chunk: int, now: int) -> None:
        state, shown = self.core.pools, self.shown[gpu]
        shown.copy(self.links[gpu].began[chunk], now, chunk, state.kind[chunk // state.chunks])
        shown.occupancy(now, state.pool_used[gpu])

    def _go_on(self, now: int) -> None:
        self._hand_over(now)
        if self.core.predictions:
            self.predictor.start(self.core.take_predictions(may_block=False), now)

    def _hand_over(self, now: int) -> None:
        """Each link in turn takes what it can, and again where a question has called forth something for another; then
        they begin, in turn."""
        for _ in range(_BURST):
            took = False
            for side, link in self._pairs:
                if side.pending and link.has_place:
                    link.take()
                    took = True
            if not took:
                break
        else:
            raise CoreError(f"a policy asks for one load after the other at {now} ns, and time does not pass")
        for link in self.links:
            if link.waiting:
                link.begin(now)

    def _block(self, now: int, stalls: list[int]) -> int:
        """The model itself has told a fact: compute waits for predictions that block. Returns until when."""
        self._hand_over(now)
        if not self.core.predictions:
            return now
        free = self.predictor.start(self.core.take_predictions(may_block=True), now)
        stalls[PREDICTOR] += free - now
        for gpu, its in enumerate(self.core.accounts.by_gpu):
            if gpu:
                its.idle_ns += free - now
                self.shown[gpu].idle(now, free)
            else:
                its.stall_ns[PREDICTOR] += free - now
                self.shown[0].stall(now, free, PREDICTOR)
        self._advance(free)
        return free

    def _on_the_first(self, now: int, ns: int) -> int:
        """GPU 0 computes, and the others have nothing to do. Returns when it has."""
        accounts = self.core.accounts
        accounts.compute_ns += ns
        for gpu, its in enumerate(accounts.by_gpu):
            if gpu:
                its.idle_ns += ns
                self.shown[gpu].idle(now, now + ns)
            else:
                its.compute_ns += ns
        return now + ns
