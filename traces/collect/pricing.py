"""Whether a trace may be priced as another model: one that is shipped, of the same sizes."""

from __future__ import annotations

import yaml

from traces import conf
from traces.errors import UserError, one_of


def check_priced_as(name: str, n_layers: int, n_experts: int, top_k: int) -> None:
    """UserError unless `name` is a model of `conf/model/` with as many MoE layers, experts and choices per token."""
    sizes = {"moe_layers": n_layers, "experts": n_experts, "top_k": top_k}
    files = {key: conf.FOLDER / "model" / f"{key}.yaml" for key in conf.names("model")}
    models = {key: yaml.safe_load(file.read_text(encoding="utf-8")) for key, file in files.items()}
    alike = sorted(key for key, model in models.items() if sizes.items() <= model.items())
    if name not in alike:
        has = ", ".join(f"{key} {size}" for key, size in sizes.items())
        raise UserError(f"priced_as={name!r}; allowed for a model of {has}: {one_of(alike) or 'none'}")
