"""The library's own way beside ours: its experts modules with weights again, taken from the store of the runtime."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from real.runtime.backend import DeviceError
from real.runtime.offloaded import TAKEN, Offloaded
from traces.kit.errors import UserError


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
    device = model.backend.device
    try:
        with _with_weights(model, torch.device("cpu")):
            model.model.to("cpu")
            try:
                yield cpu_offload(model.model, execution_device=device)
            finally:
                remove_hook_from_submodules(model.model)
    finally:
        model.model.to(device)


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
