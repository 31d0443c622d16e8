"""Pictures of finished runs: each a function from a frame of ``sim.load``, ``load_layers`` or ``compare`` to a Figure.

A title says what the frame shows. A policy has one colour everywhere, by its name (:func:`looks`). A function that has
nothing to draw, or one figure alone, raises :class:`EmptyPictureError`, with the reason or the figure: there are no
empty axes.
"""

from sim.results.pictures.bars import fates, stalls
from sim.results.pictures.budgets import front, hits, latency, link
from sim.results.pictures.colours import looks
from sim.results.pictures.gap import gap
from sim.results.pictures.layers import layers, popularity, reuse
from sim.results.pictures.lines import bound
from sim.results.pictures.measured import measured
from sim.results.pictures.serving import queue, rates, shares, waits
from traces.kit.drawing import EmptyPictureError, png, svg

__all__ = [
    "EmptyPictureError",
    "bound",
    "fates",
    "front",
    "gap",
    "hits",
    "latency",
    "layers",
    "link",
    "looks",
    "measured",
    "png",
    "popularity",
    "queue",
    "rates",
    "reuse",
    "shares",
    "stalls",
    "svg",
    "waits",
]
