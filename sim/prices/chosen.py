"""What a configuration names: which model it prices a trace as, and how its settings differ from the shipped ones."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from fractions import Fraction
from functools import cache
from typing import Any

from sim.prices import AS_TRACED, ModelProfile, figures, shipped
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


def changed(group: str, given: Mapping[str, Any], stands_for: ModelProfile | None = None) -> list[str]:
    """Keys in which ``given``, of a group of a configuration, differs from the shipped profile of its name.

    [] if there is none. ``stands_for``: what ``as_traced`` is.
    """
    if given.get("name") == AS_TRACED:
        if stands_for is None or not stands_for.shapes_known:
            return []
        return ["dtype"] if given["dtype"] not in (None, str(shipped("model", stands_for.name)["dtype"])) else []
    try:
        several = given.get("gpus", 1) != 1
        usual = figures(shipped(group, str(given.get("name"))), several=several)
        return sorted(_differences(charging(usual), charging(figures(given))))
    except UserError:
        return []


def _differences(ours: Mapping[str, Any], given: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key in {*ours, *given}:
        left, right = ours.get(key), given.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            yield from _differences(left, right, f"{prefix}{key}.")
        elif left != right:
            yield f"{prefix}{key}"


def charging(profile: Mapping[str, Any]) -> dict[str, Any]:
    """A profile without what charges nothing for a policy's decisions: to charge 0 is the same cell as not to."""
    if "software" not in profile:  # a model's
        return dict(profile)
    software = dict(profile["software"])
    own = software.pop("policy_us", {})
    charged = {name: us for name, us in own.items() if any(Fraction(str(figure)) for figure in us.values())}
    return dict(profile) | {"software": software | ({"policy_us": charged} if charged else {})}
