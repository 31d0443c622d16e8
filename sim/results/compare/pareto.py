"""The Pareto front: what nothing else is better than."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def pareto(points: ArrayLike) -> NDArray[np.bool_]:
    """Which of points [n, axes], each to be small, no other matches on all axes and beats on one.

    A point with a NaN is on no front and bars none from it: what is not known is not good.
    """
    given = np.asarray(points, dtype=np.float64)
    known: NDArray[np.bool_] = np.array([not np.isnan(point).any() for point in given], dtype=np.bool_)
    front = known.copy()
    for i in np.flatnonzero(known):
        no_worse = (given[known] <= given[i]).all(axis=1)
        better = (given[known] < given[i]).any(axis=1)
        front[i] = not (no_worse & better).any()
    return front
