"""The events of a pass: what the model's layers tell the core, and what they compute."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from real.runtime.compute import Dispatch, LayerCompute, dispatch
from real.runtime.machine import Machine
from sim.workload.passes import Pass
from traces.models.scoring import Law


class Feed(ABC):
    """Which experts an event demands: here those that the passes name; a model's own choice is real.runtime.live."""

    step: Pass

    def enter(self, step: Pass, tokens: Sequence[int]) -> None:
        """A pass begins over these tokens."""
        self.step = step

    def attached(self) -> AbstractContextManager[None]:
        """Within this block the model's passes are listened to."""
        return nullcontext()

    @abstractmethod
    def routing(self) -> NDArray[np.int64] | None:
        """The experts of each token of the pass that has begun, int64 [n, L, K] (E: none), in the place of the
        routers'; None: their own."""

    def demand(self, layer: int, ids: NDArray[np.int64], weights: NDArray[Any] | None) -> tuple[list[int], list[int]]:
        """The demand set of ``ids`` [n, K] in token order, as expert numbers, and tokens per expert.

        ``weights`` [n, K]: the router's own; None where :meth:`routing` has said who computes what.
        """
        return self.step.demand[layer], self.step.tokens[layer]

    def gate(self, layer: int, law: Law) -> tuple[Tensor, Tensor] | None:
        """Logits [n, E] of the gate that has just run, and the weights [n, K] of what it chose; None: not known."""
        return None

    def chosen(self, layer: int) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
        """Whom the gate that has just run chose, [n, K], and their weights; None: not known."""
        return None

    def ended(self) -> None:  # noqa: B027 - most feeds have nothing to do then
        """The pass has ended."""


class Run:
    """The events of a run, pass by pass: :meth:`begin`, the model's forward pass, :meth:`end`.

    Whatever crosses between host and device does so by the machine's backend: in a decode pass of one request with a
    recorded routing, no values; with the model's own, each layer's ids and weights. ``grouped``: the grouped kernel may
    be used, which wants the ids on the device.
    """

    def __init__(self, machine: Machine, feed: Feed, grouped: bool = False) -> None:
        self.machine, self.feed, self.grouped = machine, feed, grouped
        self._dispatches: list[Dispatch] | None = None  # of the layers, where the feed says who computes what
        self._untold: list[tuple[Dispatch | None, Tensor, Tensor]] = []  # layers that are computed: with ids, weights

    def begin(self, step: Pass) -> None:
        self.machine.begin(step)
        ids = self.feed.routing()
        self._dispatches = None if ids is None else self._dispatch(ids)

    def end(self) -> None:
        """The pass has ended on the device: its logits are known."""
        if self._untold:
            self.machine.passed()
            for layer, (ids, weights) in enumerate(self._known()):
                demand, tokens = self.feed.demand(layer, ids, weights)
                if demand:
                    self.machine.gate(layer, demand, tokens)
                    for batch in self.machine.turns():
                        self.machine.launched(batch)
            self._untold.clear()
        self.machine.end()
        self.feed.ended()

    def event(self, layer: LayerCompute, hidden: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        """One layer event: tell the core, and compute the experts [n, D] as they are complete."""
        machine, feed, index = self.machine, self.feed, layer.layer
        core = machine.core
        dispatched = None if self._dispatches is None else self._dispatches[index]
        given: NDArray[Any] | None = None
        if machine.resident and layer.pool.holds_all and (dispatched is not None or layer.groups):
            return self._resident(layer, hidden, ids, weights, dispatched)
        if dispatched is None:
            routed, given = machine.read(ids, weights)
        else:
            routed = dispatched.ids
            machine.drain()
        demand, tokens = feed.demand(index, routed, given)
        if not demand:  # the layer has seen no token of this pass: no event, as in the simulator
            return torch.zeros_like(hidden)
        event = machine.gate(index, demand, tokens)
        if core.routing is not None and core.routing.chosen is not None:
            routed, chosen = core.routing.chosen
            dispatched, weights = None, machine.backend.upload(torch.from_numpy(chosen).to(weights.dtype))
        if dispatched is None:
            (dispatched,) = self._dispatch(np.ascontiguousarray(routed)[:, None])
        hosting = core.places is not None and bool(core.places.experts)
        if hosting or not layer.groups or any(core.state.done[x] < core.state.chunks for x in event.demand):
            every, host = dispatched.full and not core.routes, machine.host if hosting else None
            return layer.one_by_one(hidden, dispatched, weights, machine.turns(), machine.launched, every, host)
        output = None
        for batch in machine.turns():  # one, as nothing is missing
            output = self._together(layer, hidden, dispatched, weights)
            machine.launched(batch)
        return torch.zeros_like(hidden) if output is None else output

    # -- inside -------------------------------------------------------------------------------------------------

    def _resident(
        self, layer: LayerCompute, hidden: Tensor, ids: Tensor, weights: Tensor, dispatched: Dispatch | None
    ) -> Tensor:
        """Nothing to wait for: the core is told when the pass has ended."""
        self._untold.append((dispatched, ids, weights))
        if layer.groups:
            if dispatched is None:
                return layer.together(hidden, ids, weights)
            return self._together(layer, hidden, dispatched, weights)
        assert dispatched is not None
        first = layer.layer * layer.pool.store.n_experts
        turns = [[first + x for x in dispatched.spans]]
        return layer.one_by_one(hidden, dispatched, weights, turns, every=dispatched.full)

    def _known(self) -> list[tuple[NDArray[np.int64], NDArray[Any] | None]]:
        """The ids and weights [n, K] of the layers that are computed and untold, which are read at once."""
        known = [dispatched for dispatched, _, _ in self._untold if dispatched is not None]
        if known:
            return [(dispatched.ids, None) for dispatched in known]
        _, ids, weights = zip(*self._untold, strict=True)
        read = self.machine.read(torch.stack(ids), torch.stack(weights))
        return list(zip(*read, strict=True))

    def _together(self, layer: LayerCompute, hidden: Tensor, dispatched: Dispatch, weights: Tensor) -> Tensor:
        assert dispatched.on_device is not None
        return layer.together(hidden, dispatched.on_device, weights, not dispatched.full)

    def _dispatch(self, ids: NDArray[np.int64]) -> list[Dispatch]:
        return dispatch(ids, self.machine.core.setup.n_experts, self.machine.backend, self.grouped)
