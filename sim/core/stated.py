"""What a policy decided before the first fact, as it stands in a result (policies.api.Policy.decided)."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

from policies.api import Policy
from sim.core.state import CoreError


def stated(policy: Policy) -> dict[str, Any]:
    """Ask a policy what it has decided, once. A copy, in its order; CoreError for what is not plain JSON."""
    found = policy.decided()
    if not isinstance(found, Mapping):
        raise CoreError(f"policy {policy.name} states {found!r}; allowed: a mapping")
    for name in found:
        if type(name) is not str or not name:
            raise CoreError(f"policy {policy.name} states something by the name {name!r}; allowed: a text")
    return {name: _plain(policy, name, value) for name, value in found.items()}


def _plain(policy: Policy, name: str, value: object) -> Any:
    if type(value) in (list, tuple):
        return [_plain(policy, name, item) for item in value]  # type: ignore[attr-defined]
    if value is None or type(value) in (str, bool, int) or (type(value) is float and isfinite(value)):
        return value
    raise CoreError(
        f"policy {policy.name} states {name}={value!r}, a {type(value).__name__};"
        " allowed: text, true, false, null, whole and finite numbers, lists of these"
    )
