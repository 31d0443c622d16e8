"""What is measured, and how large: the models, the cells, the points; at full size, and for a rehearsal."""

from dataclasses import dataclass
from typing import Any

from sim.prices import shipped


@dataclass(frozen=True)
class Subject:
    """A model that is run, and on which routing. ``layers``: of a shape that conf/model has deeper."""

    model: str
    weights: str
    dtype: str
    trace: str
    limit: int | None
    warmup: int
    layers: int | None = None
    drawn: tuple[tuple[int, int], ...] = ()
    """Requests (prompt tokens, decode steps) of drawn routing; none: the trace is recorded."""

    def profile(self) -> dict[str, Any]:
        """Its sizes, as conf/model has them."""
        known = dict(shipped("model", self.model))
        return known | {"dtype": self.dtype} | ({"moe_layers": self.layers} if self.layers else {})


@dataclass(frozen=True)
class Size:
    """How large everything is."""

    main: Subject
    link: Subject
    shapes: tuple[str, ...]
    """Models of which one layer is timed."""
    grid: tuple[tuple[str, str], ...]
    """(policy, budget) of the cells, the most telling first."""
    link_grid: tuple[tuple[str, str], ...]
    again: tuple[tuple[str, str], ...]
    largest: int  # MiB of a copy
    max_tokens: int
    max_context: int
    copies_s: float
    layers_s: float
    overhead_tokens: int
    new_tokens: int
    accelerate_tokens: int


PROFILED = ("lru", "gate_ahead", "promoe", "fmoe")
GRID = (("on_demand", "25%"), *((policy, budget) for budget in ("25%", "50%", "75%") for policy in PROFILED))
LINK_GRID = (("on_demand", "25%"), ("lru", "25%"), ("lru", "75%"))
AGAIN = (("on_demand", "25%"), ("lru", "25%"), ("lru", "50%"), ("lru", "75%"))
FULL = Size(
    Subject("olmoe_1b_7b", "random", "bfloat16", "sample", 4, 1),
    Subject("mixtral_8x7b", "random", "bfloat16", "link", None, 1, layers=4, drawn=((8, 4), (32, 24), (96, 24))),
    ("olmoe_1b_7b", "mixtral_8x7b"),
    GRID,
    LINK_GRID,
    AGAIN,
    largest=128,
    max_tokens=512,
    max_context=2048,
    copies_s=40,
    layers_s=45,
    overhead_tokens=48,
    new_tokens=48,
    accelerate_tokens=4,
)
TINY = Size(
    Subject("reference", "auto", "float32", "sample", 1, 0),
    Subject("reference", "auto", "float32", "link", None, 1, drawn=((4, 2), (8, 4))),
    ("reference",),
    GRID,
    LINK_GRID,
    AGAIN[:2],
    largest=1,
    max_tokens=16,
    max_context=128,
    copies_s=4,
    layers_s=6,
    overhead_tokens=4,
    new_tokens=6,
    accelerate_tokens=3,
)
