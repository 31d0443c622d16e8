"""Pictures of finished runs: each a function from a frame of ``sim.load``, ``load_layers`` or ``compare`` to a Figure.

A function that has nothing to draw raises :class:`EmptyPictureError`, with the reason: there are no empty axes.
"""

from __future__ import annotations

from sim.pictures.copies import fates, link
from sim.pictures.fronts import front
from sim.pictures.hits import hits
from sim.pictures.latency import latency
from sim.pictures.layers import layers
from sim.pictures.measured import measured
from sim.pictures.routing import popularity, reuse
from sim.pictures.stalls import stalls
from sim.pictures.style import EmptyPictureError, png

__all__ = [
    "EmptyPictureError",
    "fates",
    "front",
    "hits",
    "latency",
    "layers",
    "link",
    "measured",
    "png",
    "popularity",
    "reuse",
    "stalls",
]
