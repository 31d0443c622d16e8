"""``sim.policies()`` and the like: what there is to choose from, as ``python -m sim list`` prints it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from sim.experiment.listing import LISTS, Entry, show
from traces.kit.shown import Shown

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console


@dataclass(frozen=True, eq=False, repr=False)
class Listing(Shown, Sequence[Entry]):
    """Entries of one kind, each a mapping with a ``name``; :attr:`names` are the values of the key."""

    what: str
    entries: tuple[Entry, ...]

    def draw(self, console: Console) -> None:
        show(list(self.entries), console)

    @overload
    def __getitem__(self, at: int) -> Entry: ...
    @overload
    def __getitem__(self, at: slice) -> Listing: ...
    def __getitem__(self, at: int | slice) -> Entry | Listing:
        return Listing(self.what, self.entries[at]) if isinstance(at, slice) else self.entries[at]

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    @property
    def names(self) -> list[str]:
        return [str(entry["name"]) for entry in self.entries]

    @property
    def frame(self) -> pd.DataFrame:
        """A row per entry."""
        import pandas as pd

        return pd.DataFrame([dict[str, Any](entry) for entry in self.entries])


def policies() -> Listing:
    """Every value of ``policy=``: its class of output, what it reads, its source."""
    return _listing("policies")


def models() -> Listing:
    """Every value of ``model=`` that is shipped; sizes in bytes."""
    return _listing("models")


def hardware() -> Listing:
    """Every value of ``hardware=`` that is shipped: memory, link, where its figures are from."""
    return _listing("hardware")


def traces() -> Listing:
    """The sample, and the traces in this folder and in the folders of it."""
    return _listing("traces")


def experiments() -> Listing:
    """Every value of ``experiment=``, and what it asks."""
    return _listing("experiments")


def _listing(what: str) -> Listing:
    return Listing(what, tuple(LISTS[what]()))
