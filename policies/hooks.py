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
    """One that can also be told of many loads at a time."""

    def exchange(self, incoming: Sequence[int]) -> list[int]:
        """Each of ``incoming`` enters when the lowest of those who are in has left. Returns who left, in order: where
        nobody is in, whoever enters."""
