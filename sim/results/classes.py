"""The classes of rows (docs/design.md, rule 8), by what becomes of the model's output: each is ranked by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from policies.api import OUTPUTS

if TYPE_CHECKING:
    import pandas as pd

LOSSLESS, LOSSY, MODIFIED = OUTPUTS
MARKS = {LOSSLESS: "", LOSSY: "lossy", MODIFIED: "modified model"}
"""What a row is marked by, in tables and pictures."""
CAPTIONS = {
    LOSSLESS: "lossless policies",
    LOSSY: "lossy policies: another class, not ranked with those",
    MODIFIED: "policies of a modified model: another class, not ranked with the others",
}
WHY_MODIFIED = "a row of a modified model is compared with such rows only; on this routing the bounds hold for it, too"


def output_of(result: Mapping[str, Any]) -> str:
    """The class of a result's row; results of earlier versions say of themselves only whether they are lossless."""
    source = result["provenance"]
    if source["lossless"]:
        return LOSSLESS
    return MODIFIED if source.get("output") == MODIFIED else LOSSY


def outputs(frame: pd.DataFrame) -> pd.Series[str]:
    """The class of each row of a frame with the column ``lossless``, and ``output`` where a modified model is known."""
    import numpy as np
    import pandas as pd

    modified = (frame["output"] == MODIFIED).to_numpy(dtype=bool) if "output" in frame else False
    found = np.where(frame["lossless"].to_numpy(dtype=bool), LOSSLESS, np.where(modified, MODIFIED, LOSSY))
    return pd.Series(found, frame.index, dtype="object")


def by_class(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The classes that a frame has rows of, in the order of OUTPUTS, and their rows."""
    of = outputs(frame)
    return ((output, frame[of == output]) for output in OUTPUTS if (of == output).any())


def best_class(frame: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """The first of :func:`by_class`."""
    return next(by_class(frame))


def marked(name: str, output: str, form: str = "{} ({})") -> str:
    """A row's name, with the mark of its class."""
    return form.format(name, MARKS[output]) if MARKS[output] else name
