"""What can be chosen: the names that a group of ``conf/`` has."""

from collections.abc import Collection

from policies import registry
from traces.kit import conf


def choices(group: str) -> list[str]:
    """The names that a group has, in ``conf/`` and, for policies, from other packages."""
    found = conf.names(group)
    return sorted(found | (set(policies_elsewhere(found)) if group == "policy" else set()))


def policies_elsewhere(found: Collection[str]) -> list[str]:
    """Policies without a file; reference rows, which are no choice, are not among them."""
    return [name for name in registry.names() if name not in found and not registry.find(name).clairvoyant]


def key_of(word: str) -> str:
    """The key of an override, whatever is done with it."""
    return word.partition("=")[0].lstrip("+~")
