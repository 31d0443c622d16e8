"""The model that a run puts on a device: a checkpoint of this machine, or random weights of a known shape.

A checkpoint is loaded straight into host memory: the experts never lie anywhere else.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import AutoModelForCausalLM

from real.runtime.host import SHOWN, Host, trim
from real.runtime.offloaded import Offloaded
from real.runtime.store import Layout, block_of, same_layout
from traces.kit.errors import UserError
from traces.models.devices import device_of
from traces.models.families import is_experts
from traces.models.load import Loaded, load
from traces.models.quantised import COMPUTED
from traces.models.shapes import DTYPES, PUBLISHED, configuration

_AUTO: Any = AutoModelForCausalLM
ONE_BY_ONE = "HF_DEACTIVATE_ASYNC_LOAD"
"""Set, it has the library read a tensor when it is wanted: its threads would read, and convert, all of them ahead."""


@dataclass(frozen=True)
class Where:
    """On what a model is to be run, and how: see :class:`Offloaded`. ``host_memory``: what the user says there is."""

    device: str = "auto"
    host_memory: int | None = None
    exact: bool = True

    def open(self, name: str, dtype: str, weights: str = "auto", layers: int | None = None) -> Offloaded:
        """The model of :func:`open_model`, its experts in host memory and the rest on the device. UserError."""
        device_of(self.device)  # a slip is told before anything is loaded
        return self.put(open_model(name, dtype, weights, layers, host=Host(self.host_memory)))

    def load(self, name: str, dtype: str) -> Loaded:
        """A checkpoint with all that belongs to it, for :meth:`put`. UserError."""
        device_of(self.device)
        return open_checkpoint(name, dtype, Host(self.host_memory))

    def put(self, model: Any) -> Offloaded:
        """Take the experts of a model that is loaded into host memory, and the rest to the device. UserError."""
        return Offloaded(model, device_of(self.device), host=Host(self.host_memory), exact=self.exact)


def open_model(name: str, dtype: str, weights: str, layers: int | None = None, *, host: Host = SHOWN) -> Any:
    """A model on the CPU, in evaluation mode, its experts where a store takes them as they are, or without memory if
    their weights are random.

    `name`: "tiny-moe", a folder or a model of the local cache; with ``weights=random`` also a name of conf/model.
    `layers`: MoE layers of the trace, for a shape whose depth conf/model gives and transformers' defaults do not.
    """
    if weights == "auto":
        if name in PUBLISHED:
            raise UserError(
                f"model={name}: its checkpoint is not shipped; allowed: weights=random, or the folder of a checkpoint"
            )
        return open_checkpoint(name, dtype, host).model
    return _random(name, dtype, layers)


def _random(name: str, dtype: str, layers: int | None) -> Any:
    config = configuration(name)
    text = config.get_text_config()
    if layers is not None and name in PUBLISHED:
        dense = int(getattr(text, "first_k_dense_replace", 0) or 0)
        text.num_hidden_layers = layers + dense
        for key in ("layer_types", "mlp_layer_types"):
            if getattr(text, key, None):
                setattr(text, key, (list(getattr(text, key)) * (layers + dense))[: layers + dense])
    stated = getattr(config, "dtype", None)
    kind = DTYPES[dtype] if dtype != "auto" else stated if stated in COMPUTED else torch.bfloat16
    with torch.device("meta"):
        model = _AUTO.from_config(config, dtype=kind).eval()
    generator = torch.random.get_rng_state()
    torch.manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if not is_experts(module):
                module.to_empty(device="cpu", recurse=False)
                model._init_weights(module)
    torch.random.set_rng_state(generator)
    return model


def open_checkpoint(name: str, dtype: str, host: Host) -> Loaded:
    """Load `name` on the CPU as :func:`load` does, its experts in blocks of `host` that a HostStore takes as they are.

    UserError as `load`'s, and where the host has too little memory, before anything is read.
    """
    loaded = load(name, dtype, "cpu", within=Intake(host).reading)
    modules = [module for module in loaded.model.modules() if is_experts(module)]
    left = [module for module in modules if _elsewhere(module)]
    if left:
        print(
            f"model={name}: the library loads {len(left)} of {len(modules)} layers' experts in its own way;"
            " they may need host memory twice for a while",
            file=sys.stderr,
        )
    return loaded


def _elsewhere(module: Any) -> bool:
    try:
        return block_of(module, Layout.of(module)) is None
    except UserError:  # no experts that a store can hold, as it will say
        return True


class Intake:
    """Puts the experts of the model that is being loaded into blocks of host memory, as the library hands them over.

    The library builds a model on the meta device, reads its shards, converts a layer's tensors (stacks the experts,
    joins gate and up) by its own mapping, and registers the result as a parameter. There it is copied to its place in
    the block, and the parameter becomes a view of it: what the library then checks, ties or leaves alone is as ever.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self._seen: dict[nn.Module, None] = {}  # on the meta device, in the order in which they were built
        self._views: dict[nn.Module, dict[str, Tensor]] = {}

    @contextmanager
    def reading(self, nbytes: int) -> Iterator[None]:
        """Within this block the library loads one model of `nbytes` of weights. UserError where they do not fit."""
        self.host.check(nbytes, "the model's weights")
        before = os.environ.get(ONE_BY_ONE)
        os.environ[ONE_BY_ONE] = "1"
        registered: Any = self._registered  # torch's types do not know that it may return another parameter
        hook = register_module_parameter_registration_hook(registered)
        try:
            yield
        finally:
            hook.remove()
            trim()
            self._seen.clear()
            self._views.clear()
            if before is None:
                del os.environ[ONE_BY_ONE]
            else:
                os.environ[ONE_BY_ONE] = before

    def _registered(self, module: nn.Module, name: str, weights: nn.Parameter | None) -> nn.Parameter | None:
        """What a module is to hold in the place of `weights`; None: `weights`."""
        if weights is None or not hasattr(module, "num_experts"):
            return None
        if weights.is_meta:
            self._seen[module] = None
            return None
        if module in self._seen and not self._views:
            self._take()
        view = self._views.get(module, {}).get(name)
        if view is None or view.shape != weights.shape or weights.dtype not in COMPUTED:
            return None
        trim()  # what the layer before has left
        view.copy_(weights.data)  # of the same type, but where a version dequantises to another one than is asked for
        taken = nn.Parameter(view, requires_grad=weights.requires_grad)
        taken.__dict__.update(weights.__dict__)  # the library's mark that these are loaded, not to be drawn at random
        return taken

    def _take(self) -> None:
        """All the memory, before the first expert is read: a host without it is told of at once."""
        experts: list[Any] = [module for module in self._seen if is_experts(module)]
        try:
            layout = same_layout(experts)
        except (UserError, IndexError):  # no experts that a store can hold, as it will say
            self._seen.clear()
            return
        count = int(experts[0].num_experts)
        self.host.check(count * layout.nbytes * len(experts), "the experts")
        for module, block in zip(experts, self.host.blocks(count * layout.nbytes, len(experts)), strict=True):
            self._views[module] = layout.views(block.view(count, layout.nbytes))
