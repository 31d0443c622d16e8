"""Loading a checkpoint straight into host memory: the experts never lie anywhere else."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from real.runtime.host import Host, trim
from real.runtime.store import Layout, block_of, same_layout
from traces.kit.errors import UserError
from traces.models.families import is_experts
from traces.models.load import Loaded, load
from traces.models.quantised import COMPUTED

ONE_BY_ONE = "HF_DEACTIVATE_ASYNC_LOAD"
"""Set, it has the library read a tensor when it is wanted: its threads would read, and convert, all of them ahead."""


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
