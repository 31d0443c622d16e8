"""The pictures of a report, each with its caption; what there is nothing for is said, not left out silently."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from sim import pictures
from sim.cell import find_trace
from sim.compare import Comparison
from sim.config import load_config
from sim.core.accounts import PHASES
from sim.frame import label
from sim.pictures.colours import Looks, looks
from sim.runs import load_layers
from traces import Trace, open_trace
from traces.errors import UserError
from traces.stats import describe

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picture, or why there is none."""

    name: str
    caption: str
    png: bytes | None
    why: str = ""


def draw(found: Comparison, root: Path) -> list[Drawn]:
    """All pictures of a comparison of the runs below ``root``, in the order of the page."""
    runs, metric = found.runs, found.metric
    damaged = list[str]()
    layers, validations = _layers(root, runs, damaged), _validations(root)
    # One for the page: a policy looks the same in every picture, also where another has nothing to show.
    look = looks([*runs["policy_label"], *(name for _, document in validations for name in _policies(document))])
    drawn = [
        _draw("latency", LATENCY, lambda: pictures.latency(runs, metric, look)),
        _draw("front", FRONT, lambda: pictures.front(found.cells, metric, look)),
        *_pages("stalls", STALLS, lambda page: pictures.stalls(runs, page)),
        _draw("hits", HITS, lambda: pictures.hits(runs, look)),
        *_pages("fates", FATES, lambda page: pictures.fates(runs, page)),
        _draw("link", LINK, lambda: pictures.link(runs, look)),
    ]
    drawn += [Drawn("layers of a run", LAYERS, None, line) for line in damaged]
    if layers is not None:
        for phase in PHASES:
            drawn += _pages(f"layers_{phase}", f"{LAYERS} ({phase})", partial(pictures.layers, layers, phase))
    trace, why = _trace(runs, root)
    if trace is None:
        drawn += [Drawn(name, caption, None, why) for name, caption in (("popularity", POPULARITY), ("reuse", REUSE))]
    else:
        stats = describe(trace)
        drawn.append(_draw("popularity", POPULARITY, lambda: pictures.popularity(trace, stats)))
        drawn.append(_draw("reuse", REUSE, lambda: pictures.reuse(trace, stats)))
    for path, document in validations:
        drawn.append(_draw(f"measured {path}", f"{MEASURED} ({path})", _measured(document, look)))
    return drawn


LATENCY = (
    "Latency against budget. Lines between budgets guide the eye. Nothing lossless that computes on the GPU lies in the"
    " shaded area; reference rows cheat, and show how much cheating would help (infinite has another budget)."
)
FRONT = "The Pareto front, by means. Lossy rows have axes of their own, with what they cost in quality."
STALLS = "Where the time of a generated token goes. The parts add up to the whole window, exactly."
HITS = "The four hit rates that papers mix up, over the lookups of each phase."
FATES = "What became of the copies that were asked for ahead; late ones were demanded before they were complete."
LINK = "How busy the link was, and what was copied. Nothing lossless copies less than the bound."
LAYERS = "Layer by layer: complete hits, and stalls"
POPULARITY = "How often each expert was chosen, over the whole trace."
REUSE = "Reuse distances, over the whole trace: a layer's pool of c slots under LRU hits the lookups below c."
MEASURED = "Predicted by the simulator against measured on the device"


def _draw(name: str, caption: str, make: Callable[[], Figure]) -> Drawn:
    try:
        return Drawn(name, caption, pictures.png(make()))
    except pictures.EmptyPictureError as error:
        return Drawn(name, caption, None, str(error))


def _pages(name: str, caption: str, make: Callable[[int], Figure]) -> Iterator[Drawn]:
    """As many pictures as it takes."""
    for page in count(1):
        drawn = _draw(name, caption if page == 1 else f"{caption} (page {page})", partial(make, page))
        if page > 1 and drawn.png is None:
            return
        yield drawn
        if drawn.png is None:
            return


def _policies(document: Mapping[str, Any]) -> list[str]:
    """The policies of a validation; none of what is no validation, which says so when it is drawn."""
    try:
        return [label(row["policy"]) for row in document["cells"]]
    except (KeyError, TypeError, AttributeError):
        return []


def _measured(document: Mapping[str, Any], look: Looks) -> Callable[[], Figure]:
    def make() -> Figure:
        try:
            return pictures.measured(document, look)
        except (KeyError, TypeError, AttributeError) as error:
            raise pictures.EmptyPictureError(f"not a validation that this version reads ({error!r})") from None

    return make


def _layers(root: Path, runs: pd.DataFrame, damaged: list[str]) -> pd.DataFrame | None:
    """The layers of the runs; ``damaged`` is given a line for each table that cannot be read. None if none can."""
    try:
        return load_layers(root, runs, damaged)
    except UserError as error:
        damaged.append(str(error))
        return None


def _trace(runs: pd.DataFrame, root: Path) -> tuple[Trace | None, str]:
    """The trace that the runs replayed, if it is still where they found it and what it was."""
    word, wanted = "?", str(runs["trace"].iloc[0])
    try:
        word = load_config(root / str(runs["folder"].iloc[0]) / "config.yaml").trace
        trace = open_trace(find_trace(word))
    except (UserError, OSError) as error:
        return None, f"the trace cannot be read again: {error}"
    if trace.sha256 != wanted:
        return None, f"trace={word} is another one now ({trace.sha256[:12]}, the runs replayed {wanted[:12]})"
    return trace, ""


def _validations(root: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """Documents of ``real validate`` that lie in ``root`` or a folder in it."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    for path in sorted([*root.glob("*.json"), *root.glob("*/*.json")]):
        if path.name in ("result.json", "bounds.json", "timeline.json"):
            continue
        try:
            document = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            continue  # any other file of a person
        if isinstance(document, dict) and isinstance(document.get("cells"), list) and "provenance" in document:
            found.append((path.relative_to(root).as_posix(), document))
    return found
