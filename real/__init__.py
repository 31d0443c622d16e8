"""What does happen: the simulator's policies and core on a device.

``real.generate`` continues prompts with a model whose experts are offloaded, ``real.load`` has such a model ready for
more than one call; they need the extra 'hf'. A verb of ``python -m real`` is a file here, or a folder of its name;
:mod:`real.runtime` is what runs a model whose experts wait in host memory, :mod:`real.validation` what is said of a
device beside the simulator, for several verbs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from real.run.api import generate, load
    from real.run.serving import Model
    from real.run.stream import Progress, Stream, Token

__all__ = ["Model", "Progress", "Stream", "Token", "generate", "load"]


def __getattr__(name: str) -> Any:
    """Imported when they are asked for: a help page needs no torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from real.words import prepare

    prepare(0)  # the library fetches nothing, and is there, or that is told in a line
    from real.run import api

    return getattr(api, name)
