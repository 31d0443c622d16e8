"""Layer by layer: where the hits are, and where compute waits."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from sim.core.accounts import PHASES, STALLS
from sim.pictures.pages import page_of
from sim.pictures.style import EmptyPictureError, need, short
from sim.units import format_bytes
from traces.errors import UserError, one_of

if TYPE_CHECKING:
    import pandas as pd


def layers(frame: pd.DataFrame, phase: str = "decode", page: int = 1) -> Figure:
    """From ``sim.load_layers``: complete hits (% of lookups) and stall (ms per generated token), seeds together.

    A row per budget and policy, a column per MoE layer; one without lookups is white.
    EmptyPictureError without any, and after the last page; all pages have the same colours.
    """
    if phase not in PHASES:
        raise UserError(f"phase={phase}: allowed: {one_of(PHASES)}")
    stalls = [f"stall_{name}_ns" for name in STALLS]
    need(frame, "policy_label", "budget_bytes", "lossless", "generated_tokens", "phase", "layer", "lookups", *stalls)
    own = frame[frame["phase"] == phase]
    if not own["lookups"].any():
        raise EmptyPictureError(f"no {phase} lookups")
    own = own.assign(stall=own[stalls].sum(axis=1), lossless=own["lossless"].astype(bool))
    keys = ["lossless", "budget_bytes", "policy_label"]
    sums = own.groupby([*keys, "layer"])[["complete", "lookups", "stall", "generated_tokens"]].sum()
    seen = sums["lookups"].astype(float)
    rates = 100 * sums["complete"].astype(float) / seen.where(seen > 0)
    waits = sums["stall"].astype(float) / 1e6 / sums["generated_tokens"].astype(float)
    ordered = sorted({key[:3] for key in sums.index}, key=lambda key: (not key[0], key[1], key[2]))
    shown, of = page_of([key[:2] for key in ordered], page)
    rows, longest = ordered[shown], float(waits.max())
    names = [f"{short(name)}{'' if lossless else ' (lossy)'}, {format_bytes(int(b))}" for lossless, b, name in rows]
    tall = (0.14 + 0.16 * max(1 + name.count("\n") for name in names)) * len(rows)
    figure = Figure(figsize=(12, 2.2 + tall), layout="constrained")
    figure.suptitle(f"layer by layer, {phase}{of}")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, values, label, most in (
        (left, rates, f"complete hits, {phase} (% of lookups)", 100.0),
        (right, waits, f"stall, {phase} (ms per generated token)", longest if longest > 0 else 1.0),
    ):
        grid = values.unstack("layer").loc[rows].to_numpy(dtype=float)  # noqa: PD010 - a series
        image = _heat(axes, grid, most, int(values.index.get_level_values("layer").min()))
        # In parts of the panel's height: the same gap, however many rows there are.
        figure.colorbar(image, ax=axes, label=label, location="top", shrink=0.9, pad=0.05 / max(1.0, tall))
    left.set_yticks(range(len(rows)), names, fontsize="small")
    left.set_ylabel("policy and budget")
    for below, (upper, lower) in enumerate(pairwise(rows)):
        if upper[:2] != lower[:2]:
            for axes in (left, right):
                axes.axhline(below + 0.5, color="white", linewidth=2)
    return figure


def _heat(axes: Axes, grid: np.ndarray, most: float, first: int) -> AxesImage:
    """Rows downwards; cividis: its lightness alone tells the values."""
    extent = (first - 0.5, first + grid.shape[1] - 0.5, len(grid) - 0.5, -0.5)
    axes.set_xlabel("MoE layer")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    style = {"aspect": "auto", "interpolation": "nearest", "cmap": "cividis", "vmin": 0}
    return axes.imshow(grid, vmax=most, extent=extent, **style)  # type: ignore[arg-type]
