"""Whether a trace may be priced as another model: one that is shipped, of the same sizes."""

from __future__ import annotations

from traces.kit import conf
from traces.kit.errors import UserError, one_of


def check_priced_as(name: str, n_layers: int, n_experts: int, top_k: int) -> None:
    """UserError unless `name` is a model of `conf/model/` with as many MoE layers, experts and choices per token."""
    alike = sorted(key for key in conf.names("model") if conf.model_sizes(key) == (n_layers, n_experts, top_k))
    if name not in alike:
        has = f"moe_layers {n_layers}, experts {n_experts}, top_k {top_k}"
        raise UserError(f"priced_as={name!r}; allowed for a model of {has}: {one_of(alike) or 'none'}")
