"""A picture of a validation; the drawing is the report's too, and so lies in ``sim``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def draw(document: Mapping[str, Any]) -> bytes:
    """A PNG. ImportError where matplotlib is absent."""
    from sim.pictures.measured import measured
    from traces.drawing import png

    return png(measured(document))
