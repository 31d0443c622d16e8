"""In which settings a model or a machine is not the shipped one of its name."""

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

from sim.prices import AS_TRACED, ModelProfile, figures, shipped
from traces.kit.errors import UserError


def changed(group: str, given: Mapping[str, Any], stands_for: ModelProfile | None = None) -> list[str]:
    """Keys in which ``given``, of a group of a configuration, differs from the shipped profile of its name.

    [] if there is none. ``stands_for``: what ``as_traced`` is.
    """
    if given.get("name") == AS_TRACED:
        if stands_for is None or not stands_for.shapes_known:
            return []
        return ["dtype"] if given["dtype"] not in (None, str(shipped("model", stands_for.name)["dtype"])) else []
    try:
        usual = figures(shipped(group, str(given.get("name"))))
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
