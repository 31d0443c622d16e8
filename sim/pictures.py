"""Pictures of finished runs (:mod:`sim.results.pictures`), and what they are drawn with, for pictures of one's own.

``Picture`` is a figure that a notebook shows whole; ``dress`` and ``finish`` give axes and figure their looks,
``looks`` gives a policy its own; ``name_ends`` writes names at the ends of lines; ``about`` says what runs are of.
"""

from sim.results.pictures import (
    EmptyPictureError,
    bound,
    fates,
    front,
    gap,
    hits,
    latency,
    layers,
    link,
    looks,
    measured,
    png,
    popularity,
    queue,
    rates,
    reuse,
    shares,
    stalls,
    svg,
    waits,
)
from sim.results.pictures.findings import about
from traces.kit.drawing import GREY, INK, PALE, Picture, dress, finish, log_scale, name_ends

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
    "gap",
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
    "queue",
    "rates",
    "reuse",
    "shares",
    "stalls",
    "svg",
    "waits",
]
