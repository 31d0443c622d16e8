"""The short ways between a core and a policy, where loads are concerned (policies.api.Policy.hooks, orders)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a core calls in each load, bound once: the hooks of those names, or what does the same sooner."""

    victim: Callable[[int, bool], int | None]
    on_slot: Callable[[int], object] | None
    """None: the policy has none. So with ``on_evict``."""
    on_evict: Callable[[int], object] | None


class Order(Protocol):
    """The experts of a pool that have a slot, in the order in which they would give it up."""

    def add(self, expert: int) -> object:
        """It has taken a slot."""

    def discard(self, expert: int) -> object:
        """It has lost its slot."""

    def lowest(self, allowed: Callable[[int], bool]) -> int | None:
        """The first that is allowed, which stays a member; None if none is."""


class FullOrder(Order, Protocol):
    """One that is told of an event's loads at once, where there is room for none."""

    def exchange(self, incoming: Sequence[int], allowed: Callable[[int], bool]) -> list[int]:
        """Each of ``incoming`` in turn takes the slot of another: the first that of the lowest who is allowed, each one
        after it that of the lowest but for its predecessor, or the predecessor's where there is nobody else.

        Returns who left, in order; nobody where none is allowed, and nothing has changed then.
        """
