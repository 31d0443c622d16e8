"""A model whose experts wait in host memory and come through a machine's pool; all else is on the device.

Beside it the library's own ways, to compare: its modules with weights again, taken from the store.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from real.runtime.backend import DeviceError, backend_of
from real.runtime.compute import LayerCompute, can_group
from real.runtime.engine import Engine, check_cache
from real.runtime.events import Feed, Run
from real.runtime.host import SHOWN, Host
from real.runtime.machine import Machine
from real.runtime.pool import ALIGNED, Pool
from real.runtime.store import HostStore, same_layout
from real.runtime.versions import ItemPool, VersionedCompute
from traces.kit.errors import UserError
from traces.kit.telling import in_short
from traces.models.families import INTERFACE, MoeModel, inspect_model
from traces.models.scoring import Law

_names = itertools.count()

TAKEN = "real_taken"
"""What a model computes its experts with while no machine does: nothing, and it says so."""


def _taken(module: Any, hidden: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    raise UserError("the model's experts have been taken into host memory; allowed: passes within Offloaded.attached")


ALL_EXPERTS_FUNCTIONS.register(TAKEN, _taken)


class Offloaded:
    """Takes a model's experts into host memory, and the rest of it to the device. UserError where it does not fit.

    From then on the model computes within :meth:`attached` only.

    ``exact``: experts are computed one by one (real.runtime.compute). Otherwise in the library's grouped kernel, where
    all that a layer wants is there and torch has a fast one. The library's own forward is that kernel.
    """

    def __init__(self, model: Any, device: torch.device, host: Host = SHOWN, *, exact: bool = True) -> None:
        self.moe: MoeModel = inspect_model(model)
        check_cache(model)
        if any(layer.way != INTERFACE for layer in self.moe.layers):
            raise UserError(
                f"model type {model.config.model_type!r} cannot be run here: its experts do not go through the"
                " library's experts interface; allowed: to record it with python -m traces collect"
            )
        self.backend = backend_of(device)
        device, self.exact = self.backend.device, exact
        self.shapes = self.moe.shapes()  # while the experts have theirs
        experts = [layer.experts for layer in self.moe.layers]
        unmade = [p for module in experts for p in module.parameters() if p.is_meta]
        if unmade:
            host.check(sum(p.numel() * p.element_size() for p in unmade))
        if exact and device.type == "cuda" and same_layout(experts).nbytes % ALIGNED:
            raise UserError(
                f"exact=true: an expert has {same_layout(experts).nbytes} bytes, no multiple of {ALIGNED}, and a GPU's"
                " kernels may round otherwise in every second slot; allowed: exact=false"
            )
        self.library = str(model.config.get_text_config()._experts_implementation)
        """How the library computes these experts by itself."""
        model.set_experts_implementation(TAKEN)
        self.store = HostStore(experts, pinned=device.type == "cuda", host=host)
        try:
            self.model = model.to(device)
        except torch.OutOfMemoryError:
            self.store.close()
            raise DeviceError(f"the model's dense part does not fit on {device}; allowed: a larger device") from None
        self._layer_of = {id(module): index for index, module in enumerate(experts)}
        self._kv_bytes = 0  # not known yet
        self._warm = device.type == "cpu"  # nothing is loaded on first use there

    @contextmanager
    def computing(self, *, exact: bool) -> Iterator[None]:
        """Within this block experts are computed in that way."""
        before, self.exact = self.exact, exact
        try:
            yield
        finally:
            self.exact = before

    def computes(self, pool: Pool) -> str:
        """How experts are computed with that pool, as a result says it: exact, or grouped."""
        return "grouped" if not self.exact and can_group(pool) else "exact"

    @contextmanager
    def attached(self, machine: Machine, feed: Feed) -> Iterator[Run]:
        """Within this block the model's passes go through ``machine``: between its begin and end.

        At its end the machine's threads have ended, and the memory of its pool is free: it is used once.
        """
        pool = machine.pool
        hosted = machine.core.places is not None
        modules = [layer.experts for layer in self.moe.layers]
        layers: list[LayerCompute]
        if isinstance(pool, ItemPool):
            layers = [VersionedCompute(module, i, pool) for i, module in enumerate(modules)]
        else:
            layers = [LayerCompute(module, i, pool, self.exact, hosted=hosted) for i, module in enumerate(modules)]
        run = Run(machine, feed, layers[0].groups)

        def experts(module: Any, hidden: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
            return run.event(layers[self._layer_of[id(module)]], hidden, ids, weights)

        def masked(ids: NDArray[np.int64], allowed: NDArray[np.bool_]) -> NDArray[np.float32]:
            layer = machine.core.event.layer
            law = self.moe.layers[layer].law
            known = feed.gate(layer, law)
            if known is None and allowed.all() and (own := feed.chosen(layer)) is not None:
                return own_weights(*own, ids, len(allowed))
            if known is None:
                raise RuntimeError("masked_weights was asked for by a policy that does not declare router_probs")
            return masked_weights(law, *known, ids, allowed)

        machine.core.event.masked_weights = masked
        with ExitStack() as undo:  # each whatever interrupts another: nothing copies when the memory is given back
            undo.callback(pool.free)
            undo.callback(self._rest)
            undo.callback(machine.stop)
            undo.enter_context(torch.inference_mode())
            if not self._warm:
                self.warm_up(layers[0])
            undo.enter_context(self._computed_by(experts))
            with machine:
                yield run
                self.backend.synchronize()

    def _rest(self) -> None:
        with suppress(RuntimeError):  # of a device that has failed already, which was told
            self.backend.synchronize()

    @contextmanager
    def _computed_by(self, experts: Callable[..., Tensor]) -> Iterator[None]:
        """Within this block the model computes its experts by that function."""
        name = f"real_offload_{next(_names)}"
        ALL_EXPERTS_FUNCTIONS[name] = experts
        try:
            self.model.set_experts_implementation(name)
            yield
        finally:
            try:
                self.model.set_experts_implementation(TAKEN)
            finally:
                ALL_EXPERTS_FUNCTIONS.pop(name)

    def warm_up(self, layer: LayerCompute) -> None:
        """Run what a pass runs, without experts, and an expert's products: kernels are loaded on first use, handles and
        memory are made then, and all that takes milliseconds. DeviceError where the device cannot."""
        try:
            with self._computed_by(_nothing):
                engine = Engine(self.model, self.backend.device)
                engine.prefill(0, [0, 1, 2, 3])
                for _ in range(2):
                    engine.decode((0,), (1,))
                if layer.pool.slots:
                    layer.warm_up()
                self.backend.synchronize()
        except RuntimeError as error:
            raise DeviceError(f"the model cannot be run on {self.backend.device}: {in_short(error)}") from error
        self._warm = True

    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values that a request's cache holds per token, in all layers: a pass without experts over
        one token says so, whatever the family keeps. It is run once, by the first who asks, and not within
        :meth:`attached`. DeviceError where the device cannot."""
        if self._kv_bytes:
            return self._kv_bytes
        try:
            with torch.inference_mode(), self._computed_by(_nothing):
                engine = Engine(self.model, self.backend.device)
                engine.prefill(0, [0])
                self._kv_bytes = engine.cache_bytes(0)
                return self._kv_bytes
        except RuntimeError as error:
            raise DeviceError(f"the model cannot be run on {self.backend.device}: {in_short(error)}") from error


def _nothing(module: Any, hidden: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """What a layer's experts give where only the rest of the model is of interest."""
    return torch.zeros_like(hidden)


@contextmanager
def resident(model: Offloaded) -> Iterator[Any]:
    """The model with all experts on its device, in the library's own modules, computed by the library's choice.

    A copy of the store's bytes, given back at the end. DeviceError where the device has no room.
    """
    try:
        with _with_weights(model, model.backend.device):
            yield model.model
    except torch.OutOfMemoryError:
        nbytes = model.store.nbytes
        raise DeviceError(
            f"{nbytes / 1e9:.1f} GB of experts do not fit on {model.backend.device}; allowed: a larger device"
        ) from None


@contextmanager
def accelerated(model: Offloaded) -> Iterator[Any]:
    """The model under accelerate's CPU offload, which copies every layer's weights from pageable memory at every pass.

    UserError where accelerate is not installed. Needs host memory for all experts once more.
    """
    try:
        from accelerate import cpu_offload
        from accelerate.hooks import remove_hook_from_submodules
    except ImportError:
        raise UserError("accelerate is not installed; allowed: pip install 'moe-offload-workbench[hf]'") from None
    with ExitStack() as undo:
        undo.callback(model.model.to, model.backend.device)
        undo.enter_context(_with_weights(model, torch.device("cpu")))
        model.model.to("cpu")
        undo.callback(remove_hook_from_submodules, model.model)
        yield cpu_offload(model.model, execution_device=model.backend.device)


@contextmanager
def _with_weights(model: Offloaded, device: torch.device) -> Iterator[None]:
    """The experts' own parameters [E, ...] on a device, each contiguous as the library has them."""
    store, whole = model.store, model.model
    try:
        for layer, block in zip(model.moe.layers, store.blocks, strict=True):
            there = block.to(device)
            for name, view in store.layout.views(there).items():
                kept = view.clone(memory_format=torch.contiguous_format)
                setattr(layer.experts, name, nn.Parameter(kept, requires_grad=False))
            del there
        whole.set_experts_implementation(model.library)
        yield
    finally:
        whole.set_experts_implementation(TAKEN)
        for layer in model.moe.layers:
            store.layout.clear(layer.experts)
        if device.type == "cuda":
            torch.cuda.empty_cache()


def own_weights(
    chosen: NDArray[np.int64], weights: NDArray[np.float32], ids: NDArray[np.int64], n_experts: int
) -> NDArray[np.float32]:
    """The weights [n, K'] of ``ids`` [n, K'] (E: none, of weight 0) as the gate gave them to those that it chose,
    ``weights`` of ``chosen`` [n, K]; 0 for others."""
    found = np.zeros((len(chosen), n_experts + 1), np.float32)
    np.put_along_axis(found, np.minimum(chosen, n_experts), weights, 1)
    found[:, n_experts] = 0
    return np.take_along_axis(found, ids, 1)


def masked_weights(
    law: Law, logits: Tensor, given: Tensor, ids: NDArray[np.int64], allowed: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """The weights [n, K'] of ``ids`` [n, K'] (E: none, of weight 0) by a family's law, as if the logits of experts that
    are not ``allowed`` [E] were -inf.

    ``logits`` [n, E]: the gate's own, of which ``given`` [n, K] are the weights that came of them. So softmax is over
    those that are allowed, and a family that does not divide by the sum over its K gives them more than before.
    """
    device, n_experts = logits.device, logits.shape[-1]
    # One more expert that nobody may choose stands for none: its score is 0, whatever the law.
    closed = torch.from_numpy(~np.append(allowed, False)).to(device)
    masked = torch.nn.functional.pad(logits, (0, 1)).masked_fill(closed, float("-inf"))
    chosen = torch.from_numpy(ids).to(device)
    weights = law.weights(masked, law.scores(masked), chosen, given.to(device)).float()
    real = (chosen < n_experts) & weights.isfinite()  # not finite: all that is allowed has underflown
    weights = torch.where(real, weights, 0.0)
    found: NDArray[np.float32] = weights.cpu().numpy()
    return found
