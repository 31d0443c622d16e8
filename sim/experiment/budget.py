"""How much of a GPU's memory is there for experts, and what ``budget=`` may be.

The rest of the model (attention, norms, routers, shared experts, leading dense layers, embeddings, the head) and the KV
cache lie there as well. Activations, workspace and the driver's own memory are not counted: no profile knows them. A
smaller ``hardware.gpu.memory_bytes`` holds some back for them.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from heapq import nlargest
from typing import Self

from sim.prices import HardwareProfile, ModelProfile
from sim.results.wording import room_worded
from traces.kit.errors import UserError, meant
from traces.kit.units import format_bytes, parse_bytes

AUTO = "auto"
"""As a budget: the whole room, or all experts where they take less."""


@dataclass(frozen=True, slots=True)
class Room:
    """A GPU's memory in bytes, and what of it experts cannot have; 0 where the model's shapes are unknown."""

    gpu_bytes: int
    dense_bytes: int  # attention, norms, routers and shared experts of all layers, and leading dense layers
    head_bytes: int  # embeddings, and the head with its norm
    kv_bytes: int
    kv_requests: int
    kv_tokens: int
    """What the KV cache must hold at a time: the requests, and of these the prompts and outputs."""
    bytes: int = field(init=False)
    """What is left for experts."""

    def __post_init__(self) -> None:
        rest = self.gpu_bytes - self.dense_bytes - self.head_bytes - self.kv_bytes
        object.__setattr__(self, "bytes", max(0, rest))

    @classmethod
    def of(cls, model: ModelProfile, hardware: HardwareProfile, tokens: Iterable[int], batch: int) -> Self:
        """The room beside a model, its weights but the experts in their own dtype, and the KV cache.

        ``tokens``: of each request, prompt and output; the longest that can be active together need the cache.
        """
        longest = nlargest(batch, tokens)
        lead, size = model.leading_dense_layers, model.dense_bytes_per_param
        table = 0 if model.tied_embeddings else model.vocab * model.hidden
        per_layer = model.attention_params + model.router_params + model.shared_expert_params
        dense = size * (model.moe_layers * per_layer + lead.count * lead.params_per_layer)
        return cls(
            gpu_bytes=hardware.gpu.memory_bytes,
            dense_bytes=dense if model.dense_bytes is None else sum(model.dense_bytes),
            head_bytes=size * (table + model.head_params),
            kv_bytes=(model.moe_layers + lead.count) * model.kv_bytes_per_token * sum(longest),
            kv_requests=len(longest),
            kv_tokens=sum(longest),
        )


def budget_bytes(
    budget: str | int, total_expert_bytes: int, room: Room, hardware: str, gpus: int = 1, most: int | None = None
) -> int:
    """A budget in bytes: a size, a share of all experts, or ``auto``. UserError for more than there is room for.

    ``gpus``: share it evenly, so that each has the room of the one with the dense part, which has the least. ``most``:
    what they can hold at all, if it is not all experts once.
    """
    here = f"{format_bytes(room.bytes)} are there for experts{' on each GPU' if gpus > 1 else ''}"
    why = f"{room_worded(asdict(room))} (activations not counted)"
    there = f"{here} on {hardware}: {why}"
    if not room.bytes:  # whatever the budget
        more = "a larger GPU, a smaller batch or shorter requests"
        raise UserError(f"hardware={hardware}: {here}: {why}; allowed: {more}")
    if budget == AUTO:
        return min(gpus * room.bytes, total_expert_bytes if most is None else most)
    nbytes = sized(budget, total_expert_bytes)
    if nbytes > gpus * room.bytes:
        raise UserError(f"budget={budget}: {there}; allowed: up to {_typed(gpus * room.bytes)}, or {AUTO}")
    return nbytes


def sized(budget: str | int, total_expert_bytes: int) -> int:
    """Bytes of a size, or of a share of all experts. UserError for what is neither."""
    try:
        return parse_bytes(budget, of=total_expert_bytes)
    except UserError as error:
        close = meant(budget, [AUTO])
        raise UserError(f"{error}, or {AUTO}{close}") from None


def _typed(nbytes: int) -> str:
    """A size as one types it, never more than it is."""
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if nbytes >= size:
            return f"{nbytes // (size // 1000) / 1000:.3f}{unit}"
    return str(nbytes)
