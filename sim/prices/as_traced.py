"""Which model a configuration prices a trace as."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from typing import Any

from sim.prices import AS_TRACED, ModelProfile, shipped
from traces import Trace
from traces.kit import conf
from traces.kit.errors import UserError, one_of


def model_of(given: Mapping[str, Any], trace: Trace) -> tuple[ModelProfile, str | None]:
    """The model of a configuration, and in which dtype (None: its own). UserError for other keys than it has.

    ``as_traced`` is the model that the trace says it is of: by its sizes, or as one of ``conf/model``.
    """
    if given.get("name") != AS_TRACED:
        return ModelProfile.from_dict(given), None
    if set(given) != {"name", "dtype"}:
        raise UserError(f"model={AS_TRACED}: has the keys {one_of(given)}; allowed: name, dtype")
    dtype = given["dtype"]
    if dtype is not None and not isinstance(dtype, str):
        raise UserError(f"model.dtype={dtype}: a text or null")
    name = trace.manifest.priced_as or _named(trace)
    if name is None:
        return ModelProfile.from_manifest(asdict(trace.manifest.model)), dtype
    return ModelProfile.from_dict({**shipped("model", name), **({} if dtype is None else {"dtype": dtype})}), None


def _named(trace: Trace) -> str | None:
    """The shipped model that a trace without sizes of its own says it is of: by its name here or at its source."""
    model = trace.manifest.model
    return _shipped_models().get(model.name) if model.expert_bytes is None else None


@cache
def _shipped_models() -> dict[str, str]:
    """The models of ``conf/model``, by their names and by those that they have where they are published."""
    names = sorted(conf.names("model") - {AS_TRACED})
    return {str(shipped("model", name)["source"]).split()[0]: name for name in names} | {name: name for name in names}
