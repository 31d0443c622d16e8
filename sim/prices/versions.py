"""Prices of experts that are there in several dtypes (policies.api.Setup.versions)."""

from collections.abc import Sequence

from sim.prices.costs import Costs


class VersionedCosts(Costs):
    """Prices of `own` for its dtype, and behind them those of others: of version v, layer is v x L + layer.

    An expert in another dtype is priced as one of a model in it: by the bytes that are read, or a table that was
    measured in it. Widening it to the compute dtype takes no time beyond that, as nobody has measured it. Everything
    else is `own`'s. UserError for a dtype in which the model has no size.
    """

    def __init__(self, own: Costs, lower: Sequence[str]) -> None:
        super().__init__(own.model, own.hardware, own.dtype, own.spread)
        self.each = [own, *(Costs(own.model, own.hardware, dtype, own.spread) for dtype in lower)]
        self.expert_bytes = tuple(size for costs in self.each for size in costs.expert_bytes)
        self.sources |= {f"experts in {costs.dtype}": costs.sources["experts"] for costs in self.each[1:]}

    def expert_table(self, layer: int, max_tokens: int) -> list[int]:
        version, layer = divmod(layer, self.model.moe_layers)
        return self.each[version].expert_table(layer, max_tokens)


def in_versions(costs: Costs, lower: Sequence[str]) -> Costs:
    """The costs with those of lower dtypes behind them; they themselves where there are none."""
    return VersionedCosts(costs, lower) if lower else costs
