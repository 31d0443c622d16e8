"""Pictures of finished runs: each a function from a frame of ``sim.load``, ``load_layers`` or ``compare`` to a Figure.

A title says what the frame shows. A policy has one colour everywhere, by its name (:func:`looks`). A function that has
nothing to draw, or one figure alone, raises :class:`EmptyPictureError`, with the reason or the figure: there are no
empty axes.
"""

from __future__ import annotations

from sim.pictures.bounds import bound
from sim.pictures.colours import looks
from sim.pictures.copies import fates, link
from sim.pictures.fronts import front
from sim.pictures.hits import hits
from sim.pictures.latency import latency
from sim.pictures.layers import layers
from sim.pictures.measured import measured
from sim.pictures.routing import popularity, reuse
from sim.pictures.stalls import stalls
from traces.drawing import EmptyPictureError, png, svg

__all__ = [
    "EmptyPictureError",
    "bound",
    "fates",
    "front",
    "hits",
    "latency",
    "layers",
    "link",
    "looks",
    "measured",
    "png",
    "popularity",
    "reuse",
    "stalls",
    "svg",
]
