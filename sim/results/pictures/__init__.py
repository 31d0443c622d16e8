"""Pictures of finished runs: each a function from a frame of ``sim.load``, ``load_layers`` or ``compare`` to a Figure.

A title says what the frame shows. A policy has one colour everywhere, by its name (:func:`looks`). A function that has
nothing to draw, or one figure alone, raises :class:`EmptyPictureError`, with the reason or the figure: there are no
empty axes. For pictures of one's own there is what these are drawn with: ``Picture``, which a notebook shows whole,
``dress`` and ``finish``, ends of lines with names, log scales, and the greys.
"""

from sim.results.pictures.bars import fates, stalls
from sim.results.pictures.budgets import front, hits, latency, link
from sim.results.pictures.colours import looks
from sim.results.pictures.findings import about
from sim.results.pictures.layers import layers, popularity, reuse
from sim.results.pictures.lines import bound
from sim.results.pictures.measured import measured
from traces.kit.drawing import (
    GREY,
    INK,
    PALE,
    EmptyPictureError,
    Picture,
    dress,
    finish,
    log_scale,
    name_ends,
    png,
    svg,
)

__all__ = [
    "GREY",
    "INK",
    "PALE",
    "EmptyPictureError",
    "Picture",
    "about",
    "bound",
    "dress",
    "fates",
    "finish",
    "front",
    "hits",
    "latency",
    "layers",
    "link",
    "log_scale",
    "looks",
    "measured",
    "name_ends",
    "png",
    "popularity",
    "reuse",
    "stalls",
    "svg",
]
