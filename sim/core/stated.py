"""What a policy decided before the first fact, as it stands in a result (policies.api.Policy.facts)."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from policies.api import Policy
from sim.core.state import CoreError


def stated(policy: Policy) -> dict[str, Any]:
    """Ask a policy for its facts, once. A copy, in its order; CoreError for what is not plain JSON."""
    facts = policy.facts()
    if not isinstance(facts, Mapping):
        raise CoreError(f"policy {policy.name} states facts {facts!r}; allowed: a mapping")
    for name in facts:
        if type(name) is not str or not name:
            raise CoreError(f"policy {policy.name} states a fact by the name {name!r}; allowed: a text")
    return {name: _plain(policy, name, value) for name, value in facts.items()}


def _plain(policy: Policy, name: str, value: object) -> Any:
    if type(value) in (list, tuple):
        return [_plain(policy, name, item) for item in value]  # type: ignore[attr-defined]
    if value is None or type(value) in (str, bool, int) or (type(value) is float and isfinite(value)):
        return value
    raise CoreError(
        f"policy {policy.name} states {name}={value!r}, a {type(value).__name__};"
        " allowed: text, true, false, null, whole and finite numbers, lists of these"
    )
