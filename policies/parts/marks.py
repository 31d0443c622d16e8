"""What was chosen, as numbers for all experts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def marks(ids: NDArray[np.integer[Any]], n_experts: int) -> NDArray[np.float16]:
    """1 for each expert that is named in ``ids`` [..., K], 0 for the others, [..., E]; absent ones are none."""
    out = np.zeros((*ids.shape[:-1], n_experts + 1), np.float16)
    np.put_along_axis(out, np.minimum(ids, n_experts).astype(np.intp), np.float16(1), axis=-1)
    return out[..., :-1]
