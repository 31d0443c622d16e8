"""Pictures of finished runs (:mod:`sim.results.pictures`), and what they are drawn with, for pictures of one's own.

``Picture`` is a figure that a notebook shows whole; ``dress`` and ``finish`` give axes and figure their looks,
``looks`` gives a policy its own; ``name_ends`` writes names at the ends of lines; ``about`` says what runs are of.
"""

from sim.results import pictures as of_runs
from sim.results.pictures import *  # noqa: F403 - one list of names, theirs
from sim.results.pictures.findings import about
from traces.kit.drawing import GREY, INK, PALE, Picture, dress, finish, log_scale, name_ends

__all__ = ["GREY", "INK", "PALE", "Picture", "about", "dress", "finish", "log_scale", "name_ends"]
__all__ += of_runs.__all__
