"""On which of several GPUs an expert lies, and what is divided by their number (docs/design.md, The machine model)."""

from dataclasses import dataclass

from sim.prices.hardware import HardwareProfile
from sim.prices.model import ModelProfile
from traces.kit.errors import UserError

WHOLE = ("hash", "round_robin", "layers")
"""Placements that put each expert on one GPU."""
PLACEMENTS = (*WHOLE, "shard", "replicate")


@dataclass(frozen=True, slots=True)
class Spread:
    """A placement on so many GPUs. On one, all are alike."""

    placement: str = "hash"
    gpus: int = 1

    @property
    def pools(self) -> int:
        """GPUs that hold experts of their own. The others are one to a policy, as each copies what all copy."""
        return self.gpus if self.placement in WHOLE else 1

    @property
    def parts(self) -> int:
        """Into how many parts an expert is cut, one on each GPU."""
        return self.gpus if self.placement == "shard" else 1

    @property
    def alike(self) -> int:
        """How many GPUs hold the same."""
        return self.gpus if self.placement == "replicate" else 1

    def homes(self, n_layers: int, n_experts: int) -> tuple[int, ...]:
        """The GPU of each expert, by its number; empty where they are one.

        ``hash``: the index in its layer, modulo the GPUs. ``round_robin``: its number, so that the counter runs on from
        layer to layer. ``layers``: runs of layers, as even as they can be.
        """
        if self.pools == 1:
            return ()
        numbers = range(n_layers * n_experts)
        if self.placement == "hash":
            return tuple(x % n_experts % self.gpus for x in numbers)
        if self.placement == "round_robin":
            return tuple(x % self.gpus for x in numbers)
        return tuple(x // n_experts * self.gpus // n_layers for x in numbers)


def spread_of(placement: str, hardware: HardwareProfile, model: ModelProfile) -> Spread:
    """The placement of a model on a machine. UserError for one that cannot be, or has no price."""
    gpus, given = hardware.gpus, f"hardware.gpus={hardware.gpus} placement={placement}"
    if gpus == 1:
        return Spread()
    most = {
        "hash": (model.experts, "experts of a layer"),
        "layers": (model.moe_layers, "MoE layers"),
        "round_robin": (model.moe_layers * model.experts, "experts"),
        "shard": (model.expert_width or 1, "width of an expert"),
    }
    count, of = most.get(placement, (gpus, ""))
    if gpus > count:
        raise UserError(f"{given}: a GPU would hold nothing; allowed: at most {count}, the {of}")
    if placement == "replicate":
        return Spread(placement, gpus)
    if hardware.peer is None:
        allowed = "a machine with hardware.peer={gb_per_s: 20, latency_us: 10}, say, or placement=replicate"
        raise UserError(f"hardware.peer=null: {given} sends activations from GPU to GPU; allowed: {allowed}")
    if not model.hidden:
        raise UserError(
            f"model={model.name}: its hidden size is not known, so that activations between GPUs have no price;"
            f" allowed: a model with its shapes, hardware.gpus=1 or placement=replicate"
        )
    return Spread(placement, gpus)
