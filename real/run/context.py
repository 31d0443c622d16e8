"""Whether the context that is asked for fits: keys and values beside the budget, before anything runs."""

from collections.abc import Sequence

from real.runtime.host import ROOM as HOST_ROOM
from real.runtime.host import Host
from real.runtime.offloaded import Offloaded
from traces.kit.errors import UserError
from traces.kit.units import format_bytes
from traces.models.devices import free_memory


def cache_bytes(model: Offloaded, tokens: Sequence[int], batch: int) -> int:
    """What the device must hold at a time of keys and values, for requests of so many ``tokens``, prompt and output.

    The rows of a batch are as long as the longest; where requests come and go, the old cache and the new one are both
    there for a moment.
    """
    rows = min(batch, len(tokens))
    return model.kv_bytes_per_token() * max(tokens) * rows * (2 if rows > 1 else 1)


def check_context(model: Offloaded, budget: int, tokens: Sequence[int], batch: int, host: Host) -> None:
    """UserError where the device has no room for the budget and the context. On a CPU it is the host's memory."""
    device = model.backend.device
    if device.type == "cuda":
        free, where = free_memory(device), f"on {device} beside the dense part"
    elif host.given is not None:
        free, where = max(0, host.given - model.store.nbytes), "of host_memory= beside the experts"
    else:
        free, where = int(HOST_ROOM * host.free()), "of host memory"
    needed, slots = cache_bytes(model, tokens, batch), min(budget, model.store.nbytes)
    if slots + needed <= free:
        return
    fits = max(0, free - slots) * max(tokens) // needed
    raise UserError(
        f"max_new_tokens=: requests of up to {max(tokens)} tokens, {min(batch, len(tokens))} at a time, take"
        f" {format_bytes(needed)} for keys and values beside {format_bytes(slots)} of experts:"
        f" {format_bytes(free)} are free {where}; allowed: up to {fits} tokens, prompt and answer, or a smaller budget"
    )
