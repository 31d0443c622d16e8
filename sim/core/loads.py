"""What is loaded: slots, the queue of speculative loads, and what became of each load (rules 4 to 6)."""

import hashlib
from array import array
from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Any

from policies.api import Policy, Setup
from sim.core.accounts import CANCELLED, IN_FLIGHT, USELESS, Accounts
from sim.core.pools import state_of
from sim.core.state import ARRIVED, NO_FATE, CoreError

NONE = -1
"""Answer of ``next_chunk``: nothing to copy now."""

Prediction = tuple[int, int, bool]
"""One that a policy asks for (policies.api.Actions.predict): (tag, latency in ns, blocking)."""

_EVICTED = -3  # in the digest, the eviction of x is _EVICTED - x


class Loads:
    """The half of the core that knows no events."""

    def __init__(self, policy: Policy, setup: Setup) -> None:
        self.own_bytes = own = policy.gpu_bytes()
        """What the policy itself keeps of the budget."""
        state = state_of(setup, setup.budget - own, policy)
        self.setup, self.policy, self.state = setup, policy, state
        self.accounts = Accounts(setup.n_layers, gpus=setup.gpus, versions=len(setup.versions))
        self.pending = False
        """Whether asking next_chunk may give a chunk: something is queued and not known to be blocked."""
        self.predictions: list[Prediction] = []
        """Asked for, and not yet taken by the machine."""
        self.log = array("q")
        """Facts and questions so far, where they are recorded (sim.core.log)."""
        # The hottest tables, without the way through the state.
        self._slot, self._given, self._done, self._pinned = state.slot, state.given, state.done, state.pinned
        self._chunks = setup.chunks
        self._demand: deque[int] = deque()
        self.speculative = SpeculativeQueue(len(state.done))
        self._queue = self.speculative.heap
        self._answers = Digest()
        self._on_complete = policy.on_complete if policy.uses("on_complete") else None
        self._on_slot: Callable[[int], object] | None = None
        self._on_evict: Callable[[int], object] | None = None
        self._victim: Callable[[int, bool], int | None] = policy.victim

    def _bind(self) -> None:
        """Take the hooks that every load calls, of a policy that has been attached."""
        hooks = self.policy.hooks()
        self._victim, self._on_slot, self._on_evict = hooks.victim, hooks.on_slot, hooks.on_evict

    @property
    def queued(self) -> bool:
        """Whether a load waits for the link, be it that it can get no slot now."""
        return bool(self._demand or self._queue)

    def digest(self) -> str:
        """Hash of all answers given so far, evictions included."""
        return self._answers.hexdigest()

    def listen(self, name: str, tell: Callable[..., object]) -> None:
        """``tell`` the operands of each fact or question of that name, or ``evict``, before the core acts on it.

        Of several the last one hears first. A core that nobody listens to pays nothing for it; one that a machine was
        made of is no longer heard.
        """
        act = getattr(self, name)

        def heard(*operands: Any) -> Any:
            tell(*operands)
            return act(*operands)

        setattr(self, name, heard)

    def take_predictions(self, *, may_block: bool) -> list[Prediction]:
        """What the policy has asked for since the last time. A machine lets it block after ``step_begin`` and ``gate``,
        the facts that are the model's own: compute has ended then. CoreError for one that may not."""
        asked, self.predictions = self.predictions, []
        if not may_block and any(blocking for *_, blocking in asked):
            hooks = "on_step, route, place, on_gate and schedule"
            raise CoreError(f"policy {self.policy.name}: a prediction may block the GPU only from {hooks}")
        return asked

    def evict(self, x: int) -> None:
        """Take the slot of ``x``, and settle its fate if it was speculative."""
        state = self.state
        if not state.slot[x] or state.pinned[x] or state.given[x] != state.done[x]:
            raise CoreError(f"expert {x} was to be evicted while it had no slot, was pinned or on the link")
        state.used -= state.size[x]
        state.layer_used[x // state.share_span] -= state.size[x]
        state.slot[x] = state.given[x] = state.done[x] = 0
        if state.spec[x]:
            self.settle(x, USELESS if state.spec[x] == ARRIVED else CANCELLED)
        self._answers.append(_EVICTED - x)
        if self._on_evict is not None:
            self._on_evict(x)

    def settle(self, x: int, fate: int) -> None:
        """A speculative load has met its fate."""
        self.state.spec[x] = NO_FATE
        self.speculative.drop(x)
        self.accounts.fates[fate] += 1
        self.accounts.fate_bytes[fate] += self.state.spec_bytes[x]
        self.state.spec_bytes[x] = 0

    # -- the measured window ------------------------------------------------------------------------------------

    def measure_from(self, now: int) -> None:
        """Forget what was counted so far (warm-up). Loads without a fate are carried in, without their bytes so far."""
        carried = [x for x, fate in enumerate(self.state.spec) if fate]
        predicts, setup = self.accounts.predicts, self.setup
        self.accounts = Accounts(setup.n_layers, setup.gpus, len(setup.versions), predicts=predicts, start_ns=now)
        self.accounts.issued = len(carried)
        for x in carried:
            self.state.spec_bytes[x] = 0
        self.state.peak = self.state.used

    def finish(self, now: int) -> Accounts:
        """Settle the loads without a fate, close the window and return the accounts."""
        for x, fate in enumerate(self.state.spec):
            if fate:
                self.settle(x, USELESS if fate == ARRIVED else IN_FLIGHT)
        self.accounts.end_ns = now
        self.accounts.check()
        return self.accounts

    # -- room ---------------------------------------------------------------------------------------------------

    def _next_speculative(self) -> int:
        """The next chunk of a speculative load that has a slot or can have one; NONE, and nothing is pending."""
        queue, state = self.speculative, self.state
        while (x := queue.head()) != NONE and not self._slot[x]:
            entry = queue.entry(x)
            if self._make_room(x, True):
                break
            if queue.entry(x) == entry:
                x = NONE
                break
        if x == NONE:
            self.pending = False
            return NONE
        chunk = x * state.chunks + state.given[x]
        nbytes = state.chunk_bytes[chunk]
        self.accounts.speculative_bytes += nbytes
        state.spec_bytes[x] += nbytes
        state.given[x] += 1
        if state.given[x] == state.chunks:
            queue.drop(x)
            self.pending = bool(self._demand) or queue.head() != NONE
        return chunk

    def _make_room(self, x: int, speculative: bool) -> bool:
        """Give x a slot. False: none can be had, or the policy has cancelled or re-queued x meanwhile."""
        state, entry = self.state, self.speculative.entry(x) if speculative else 0
        size, shares = state.size[x], state.layer_capacity is not None
        while state.used + size > state.capacity or (shares and not state.fits(x)):
            victim = self._victim(x, speculative)
            if victim is not None:
                self.evict(victim)
            elif not state.fits(x):  # else the policy has made the room itself
                return False
            if speculative and self.speculative.entry(x) != entry:
                return False
        # The slot is x's. Rule 6: the budget holds at every instant.
        state.used = used = state.used + size
        if used > state.capacity:
            raise CoreError(f"budget exceeded: {used} > {state.capacity} bytes")
        if used > state.peak:
            state.peak = used
        state.layer_used[x // state.share_span] += size
        state.slot[x] = 1
        if self._on_slot is not None:
            self._on_slot(x)
        return state.slot[x] == 1


class SpeculativeQueue:
    """Pending loads by priority, then first come. An expert has at most one live entry; others are skipped."""

    def __init__(self, n_experts: int) -> None:
        self.heap: list[tuple[float, int, int]] = []  # (-priority, number, expert)
        self._live = [0] * n_experts  # number of an expert's live entry, 0 for none
        self._issued = 0

    def push(self, expert: int, priority: float) -> None:
        """Queue an expert, or move it."""
        self._issued += 1
        self._live[expert] = self._issued
        heappush(self.heap, (-priority, self._issued, expert))
        if len(self.heap) > 4 * len(self._live):  # mostly dead entries that never come to the head
            self.heap[:] = [entry for entry in self.heap if self._live[entry[2]] == entry[1]]
            heapify(self.heap)

    def drop(self, expert: int) -> None:
        """Take an expert out, if it is in."""
        self._live[expert] = 0

    def entry(self, expert: int) -> int:
        """What changes when an expert is queued anew or dropped."""
        return self._live[expert]

    def head(self) -> int:
        """The expert whose turn it is, or NONE."""
        heap = self.heap
        while heap:
            _, number, expert = heap[0]
            if self._live[expert] == number:
                return expert
            heappop(heap)
        return NONE


class Digest(list[int]):
    """The answers given so far, whole numbers, which are hashed in blocks."""

    def __init__(self) -> None:
        super().__init__()
        self._hash = hashlib.blake2b(digest_size=16)

    def flush(self, at_least: int = 1 << 16) -> None:
        """Hash what has been collected, if it is ``at_least`` so much."""
        if len(self) >= at_least:
            self._hash.update(array("q", self).tobytes())
            self.clear()

    def hexdigest(self) -> str:
        """The digest of everything so far."""
        self.flush(0)
        return self._hash.hexdigest()
