"""What tells a policy's runs from those of its other settings, in few words."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from policies import registry
from policies.api import Policy
from traces.kit.errors import UserError


def label(policy: Mapping[str, Any]) -> str:
    """The policy's name, with the parameters that are not at their defaults; all of them if it is not installed."""
    defaults = _defaults(str(policy["name"]))
    own = [f"{key}={value}" for key, value in policy.items() if key != "name" and value != defaults.get(key)]
    return f"{policy['name']} ({', '.join(own)})" if own else str(policy["name"])


def _defaults(policy: str) -> Mapping[str, Any]:
    try:
        return _of(registry.find(policy))
    except UserError:  # of a package that is not installed here
        return {}


@cache
def _of(policy: type[Policy]) -> Mapping[str, Any]:
    return registry.defaults(policy.name)  # of a notebook's class, which may be defined again under its name
