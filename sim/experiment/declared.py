"""What a preset declares with its parameters as they are, asked of a policy that is made for no run."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from policies import registry
from policies.api import Policy, Setup
from sim.prices import HardwareProfile, ModelProfile, shipped
from sim.prices.costs import Costs
from sim.prices.host import host_of

MODEL, HARDWARE = "tiny-moe", "rtx_4090"
"""No declaration depends on sizes or prices; of these there are some of each kind."""


def declared(given: Mapping[str, Any]) -> Policy:
    """The policy of these parameters, neither fitted nor attached: :meth:`Policy.needs` and the like can be asked.

    UserError for parameters that it does not take.
    """
    return registry.build(str(given["name"]), _setup(), {key: it for key, it in given.items() if key != "name"})


@cache
def _setup() -> Setup:
    """With room for everything."""
    model = ModelProfile.from_dict(shipped("model", MODEL))
    costs = Costs(model, HardwareProfile.from_dict(shipped("hardware", HARDWARE)), model.dtype)
    return Setup(
        n_layers=model.moe_layers,
        n_experts=model.experts,
        top_k=model.top_k,
        expert_bytes=costs.expert_bytes,
        chunks=1,
        budget=model.experts * sum(costs.expert_bytes),
        costs=costs,
        seed=0,
        host=host_of(costs),
        dtype=model.dtype,
        others={dtype: model.priced(dtype) for dtype in model.expert_bytes if dtype != model.dtype},
    )
