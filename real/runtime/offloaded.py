"""A model whose experts wait in host memory and come through a machine's pool; all else is on the device."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from real.runtime.backend import DeviceError, backend_of
from real.runtime.compute import LayerCompute
from real.runtime.host import Host, free_memory
from real.runtime.machine import Machine
from real.runtime.masked import MaskedGate
from real.runtime.store import HostStore
from sim.workload import Pass
from traces.collect.families import MoeModel, inspect_model
from traces.collect.scoring import Law
from traces.errors import UserError

_names = itertools.count()

TAKEN = "real_taken"
"""What a model computes its experts with while no machine does: nothing, and it says so."""


def _taken(module: Any, hidden: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    raise UserError("the model's experts have been taken into host memory; allowed: passes within Offloaded.attached")


ALL_EXPERTS_FUNCTIONS.register(TAKEN, _taken)


class Feed(Protocol):
    """Which experts an event demands: those that the router has chosen, or those of a recorded trace."""

    def forced(self, layer: int) -> NDArray[np.int64] | None:
        """The experts of each token of the pass [n, K] (E: none) in the place of the router's; None: its own."""

    def demand(self, layer: int, ids: NDArray[np.int64], weights: Tensor) -> tuple[list[int], list[int]]:
        """The demand set of ``ids`` [n, K] in token order, as flat numbers, and tokens per expert.

        ``weights`` [n, K] are brought to the CPU by a feed that reads them: it costs a transfer per event.
        """

    def gate(self, layer: int, law: Law) -> tuple[Tensor, Tensor] | None:
        """Logits [n, E] of the gate that has just run, and the weights [n, K] of what it chose; None: not known."""

    def settle(self) -> None:
        """The pass has ended."""


class Offloaded:
    """Takes a model's experts into host memory, and the rest of it to the device. UserError where it does not fit.

    From then on the model computes within :meth:`attached` only. ``room`` says how many bytes of host memory are free,
    ``host_memory`` what the user says that there is, in its place.
    """

    def __init__(
        self,
        model: Any,
        device: torch.device,
        room: Callable[[], int] = free_memory,
        host_memory: int | None = None,
    ) -> None:
        self.moe: MoeModel = inspect_model(model)
        self.backend = backend_of(device)
        self.shapes = self.moe.shapes()  # while the experts have theirs
        experts = [layer.experts for layer in self.moe.layers]
        unmade = [p for module in experts for p in module.parameters() if p.is_meta]
        if unmade:
            Host(host_memory, room).check(sum(p.numel() * p.element_size() for p in unmade))
        self.library = str(model.config.get_text_config()._experts_implementation)
        """How the library computes these experts by itself."""
        model.set_experts_implementation(TAKEN)
        self.store = HostStore(experts, pinned=device.type == "cuda", room=room, host_memory=host_memory)
        try:
            self.model = model.to(device)
        except torch.OutOfMemoryError:
            self.store.close()
            raise DeviceError(f"the model's dense part does not fit on {device}; allowed: a larger device") from None
        self._layer_of = {id(module): index for index, module in enumerate(experts)}

    @contextmanager
    def attached(self, machine: Machine, feed: Feed) -> Iterator[Run]:
        """Within this block the model's passes go through ``machine``: between its begin and end.

        At its end the machine's threads have ended, and the memory of its pool is free: it is used once.
        """
        model, name = self.model, f"real_offload_{next(_names)}"
        pool = machine.core.pool
        layers = [LayerCompute(layer.experts, index, pool) for index, layer in enumerate(self.moe.layers)]
        run = Run(machine, feed)
        machine.core.event.masked_weights = MaskedGate(self.moe, machine.core.event, feed.gate)

        def experts(module: Any, hidden: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
            return run.event(layers[self._layer_of[id(module)]], hidden, ids, weights)

        ALL_EXPERTS_FUNCTIONS[name] = experts
        model.set_experts_implementation(name)
        try:
            with machine, torch.inference_mode():
                yield run
                self.backend.synchronize()
        finally:
            model.set_experts_implementation(TAKEN)
            ALL_EXPERTS_FUNCTIONS.pop(name)
            with suppress(RuntimeError):  # of a device that has failed already, which was told
                self.backend.synchronize()
            pool.free()


class Run:
    """The events of a run, pass by pass: :meth:`begin`, the model's forward pass, :meth:`end`."""

    def __init__(self, machine: Machine, feed: Feed) -> None:
        self.machine, self.feed = machine, feed
        self._untold: list[tuple[Tensor, Tensor]] = []  # ids and weights [n, K] of layers whose experts are computed

    def begin(self, step: Pass) -> None:
        self.machine.begin(step)

    def end(self) -> None:
        """The pass has ended on the device: its logits are known."""
        if self._untold:
            self.machine.passed()
            ids, weights = (torch.stack(pair) for pair in zip(*self._untold, strict=True))
            for layer, choice in enumerate(zip(ids.cpu().numpy(), weights.cpu(), strict=True)):
                demand, tokens = self.feed.demand(layer, *choice)
                if demand:
                    self.machine.gate(layer, demand, tokens)
                    for batch in self.machine.turns():
                        self.machine.launched(batch)
            self._untold.clear()
        self.machine.end()
        self.feed.settle()

    def event(self, layer: LayerCompute, hidden: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        """One layer event: tell the core, and compute the experts [n, D] as they are complete."""
        machine, feed, index = self.machine, self.feed, layer.layer
        core, n_experts = machine.core, layer.pool.store.n_experts
        forced = feed.forced(index)
        if machine.resident and layer.pool.holds_all:  # nothing to wait for: the core is told when the pass has ended
            chosen = ids if forced is None else torch.from_numpy(forced).to(ids)
            self._untold.append((chosen, weights))
            return layer.together(hidden, chosen, weights, forced is not None and bool((forced >= n_experts).any()))
        own = ids.cpu().numpy()  # the device has nothing left to compute now
        routed = own if forced is None else forced
        demand, tokens = feed.demand(index, routed, weights)
        if not demand:  # the layer has seen no token of this pass: no event, as in the simulator
            return torch.zeros_like(hidden)
        event = machine.gate(index, demand, tokens)
        if core.routing is not None and core.routing.chosen is not None:
            routed, given = core.routing.chosen
            weights = torch.from_numpy(given).to(weights)
        complete = all(core.state.done[x] == core.state.chunks for x in event.demand)
        if not (complete and layer.can_group):
            return layer.one_by_one(hidden, routed, weights, machine.turns(), machine.launched)
        output = None
        on_device = ids if routed is own else torch.from_numpy(np.ascontiguousarray(routed)).to(ids)
        for batch in machine.turns():  # one, as nothing is missing
            output = layer.together(hidden, on_device, weights, bool((routed >= n_experts).any()))
            machine.launched(batch)
        return torch.zeros_like(hidden) if output is None else output
