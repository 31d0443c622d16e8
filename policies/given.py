"""Policies that are in no package: classes of a notebook or of a script, known in this process alone."""

import re
from typing import TypeGuard

from policies.api import Policy
from traces.kit.errors import UserError, shown

GIVEN: dict[str, type[Policy]] = {}
"""By name; :func:`policies.registry.register` fills it, and nobody else."""


def is_policy(item: object) -> TypeGuard[type[Policy]]:
    """Whether it is a class of policies with a name of its own."""
    return isinstance(item, type) and issubclass(item, Policy) and "name" in vars(item)


def is_name(name: object) -> bool:
    """Whether a policy can be called so."""
    return isinstance(name, str) and re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) is not None


def check_given(policy: object) -> type[Policy]:
    """The class. UserError for what is none that can be given."""
    if not is_policy(policy):
        what = f"an object of {type(policy).__name__}" if isinstance(policy, Policy) else shown(policy)
        raise UserError(f"policy={what}: allowed: a name, or a class of policies.api.Policy with a name of its own")
    if not is_name(policy.name):
        raise UserError(f"policy={shown(policy.__name__)}: name={policy.name!r}; allowed: letters, digits and _")
    if policy.clairvoyant:
        raise UserError(f"policy={policy.name}: sees the future, so it is a reference row and not a choice")
    return policy
