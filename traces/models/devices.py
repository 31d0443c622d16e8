"""Where a model goes: one device, or spread over several and the disk if it does not fit."""

import os
import re
import sys
from importlib.util import find_spec
from typing import Any

import torch

from traces.kit.errors import UserError

SPREAD = "spread"
ROOM = 0.9
"""Share of a device's memory that weights may take: the rest is for activations and the KV cache."""


def device_name(device: torch.device) -> str:
    """ "cpu", or the GPU's product name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def input_device(model: Any) -> torch.device:
    """Where a model takes its inputs: of one whose first layers are spread onto the disk, the first GPU or the CPU."""
    device: torch.device = device_of("auto") if model.device.type == "meta" else model.device
    return device


def device_of(device: str, allowed: str = "auto, cpu, cuda, cuda:N") -> torch.device:
    """The torch device of `device=`: auto (CUDA if there is one), cpu, cuda or cuda:N; UserError otherwise.

    One of CUDA's always has its index: `cuda` is the current one.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = torch.device("meta")
    if chosen.type not in ("cpu", "cuda") or device.startswith("cpu:"):
        raise UserError(f"device={device!r} is not known; allowed: {allowed}")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device={device!r}: this machine has {torch.cuda.device_count()} CUDA devices")
    return indexed(chosen)


def indexed(device: torch.device) -> torch.device:
    """The device with its index, which torch.cuda.set_device and comparisons want: `cuda` is the current one."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def choose(device: str, size: int, limited: bool = False) -> str:
    """Where weights of `size` bytes go under `device=`: a device of `device_of`, or "spread".

    auto: the current GPU, else host memory, else spread. `limited`: the user gave `max_memory`, which is for spread.
    """
    if limited and device not in ("auto", SPREAD):
        raise UserError(f"max_memory= goes with device=spread, not device={device}")
    if device == "auto" and not limited:
        room = memory()
        device = next((place for place, bytes_ in room.items() if size <= ROOM * bytes_), SPREAD)
        if device == SPREAD:
            has = ", ".join(f"{place} has {bytes_ / 1e9:.1f} GB" for place, bytes_ in room.items())
            print(f"the weights take {size / 1e9:.1f} GB, {has}: device=spread", file=sys.stderr)
    if limited or device == SPREAD:
        if not find_spec("accelerate"):
            raise UserError("device=spread needs accelerate: pip install 'moe-offload-workbench[hf]'")
        return SPREAD
    return str(device_of(device, "auto, cpu, cuda, cuda:N, spread"))


def memory() -> dict[str, int]:
    """Bytes free on the current GPU, if there is one, and bytes of host memory."""
    room = {"cuda": free_memory(indexed(torch.device("cuda")))} if torch.cuda.is_available() else {}
    return room | {"cpu": host_bytes()}


def host_bytes() -> int:
    """Bytes of host memory, used or not."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_memory(device: torch.device) -> int:
    """Bytes of a GPU that can be had: what is free, and what torch's allocator holds and has not given out.

    The driver counts the latter as used; the allocator gives them back before it says that there is no room.
    """
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + max(0, held)


def limits(value: str) -> dict[int | str, str]:
    """`max_memory=0:20GiB,cpu:60GiB` -> {0: "20GiB", "cpu": "60GiB"}, as accelerate's device map takes it."""
    result: dict[int | str, str] = {}
    for part in value.split(",") if value else []:
        found = re.fullmatch(r"(cpu|[0-9]{1,3}):([0-9]{1,9}[KMGT]i?B)", part)
        place: int | str = "" if not found else int(found[1]) if found[1].isdecimal() else found[1]
        if not found or place in result:
            wanted = "DEVICE:SIZE, each device once; allowed: 0:20GiB,cpu:60GiB and the like"
            raise UserError(f"max_memory={value!r}: {part!r} is not {wanted}")
        if isinstance(place, int) and place >= torch.cuda.device_count():
            raise UserError(f"max_memory={value!r}: this machine has {torch.cuda.device_count()} CUDA devices")
        result[place] = found[2]
    return result
