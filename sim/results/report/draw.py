"""The pictures of a report, each with its caption; what there is nothing for is said, not left out silently."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.core.accounts import PHASES
from sim.results import pictures
from sim.results.classes import LOSSY, outputs
from sim.results.columns import REFERENCE_ROWS
from sim.results.compare import Comparison
from sim.results.finished import traced
from sim.results.gap import frame as gap_frame
from sim.results.label import label
from sim.results.load import load_layers
from sim.results.pictures.colours import looks
from sim.results.pictures.findings import about
from sim.results.pictures.style import Sheet
from sim.results.report.serving import of_serving
from traces import Trace, find_trace, open_trace
from traces.describe.stats import describe
from traces.kit.errors import UserError
from traces.kit.panels import together

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picture's panels, each an image of its own, or why there are none."""

    name: str
    caption: str
    panels: Sequence[tuple[str, bytes]]
    """What each shows, and its SVG."""
    why: str = ""


def draw(found: Comparison, root: Path) -> list[Drawn]:
    """All pictures of a comparison of the runs below ``root``, in the order of the page."""
    runs, metric = found.runs, found.metric
    damaged = list[str]()
    validations = _validations(root)
    lossy = found.cells[outputs(found.cells) == LOSSY]
    # One for the page: marker and dash of variants too are the same in every picture.
    look = looks([*runs["policy_label"], *(name for _, document in validations for name in _policies(document))])
    said = about(runs)
    latency = partial(pictures.latency.sheet, runs, metric, look, found.cells, found.target)
    drawn = [_draw("latency", _of_latency(runs), latency)]
    if len(lossy):
        drawn.append(_draw("front", FRONT, partial(pictures.front.sheet, lossy, metric, look, found.target, said)))
    drawn += [
        _draw("stalls", STALLS, partial(pictures.stalls.sheet, runs, None)),
        _draw("gap", GAP, partial(_gap, root, runs)),
        _draw("hits", HITS, partial(pictures.hits.sheet, runs, look)),
        _draw("fates", FATES, partial(pictures.fates.sheet, runs, None)),
        _draw("link", _of_link(runs), partial(pictures.link.sheet, runs, look)),
    ]
    drawn += [_draw(*made) for made in of_serving(found, root, look)]
    try:
        layers = load_layers(root, runs, damaged)
    except UserError as error:  # there is none that can be read
        damaged.append(str(error))
        layers = None
    drawn += [Drawn("layers of a run", LAYERS, (), line) for line in damaged]
    if layers is not None:
        sheets = {phase: partial(pictures.layers.sheet, layers, phase, None, said) for phase in PHASES}
        drawn += [_draw(f"layers_{phase}", f"{LAYERS} ({phase})", sheet) for phase, sheet in sheets.items()]
    trace, why = _trace(runs, root)
    if trace is None:
        drawn += [Drawn(name, caption, (), why) for name, caption in (("popularity", POPULARITY), ("reuse", REUSE))]
    else:
        stats = describe(trace)
        drawn.append(_draw("popularity", POPULARITY, partial(pictures.popularity.sheet, trace, stats)))
        drawn.append(_draw("reuse", REUSE, partial(pictures.reuse.sheet, trace, stats)))
    for path, document in validations:
        name, caption = f"measured {path}", f"{MEASURED} ({path})"
        try:
            drawn.append(_draw(name, caption, partial(pictures.measured.sheet, document, look)))
        except (KeyError, TypeError, AttributeError) as error:
            drawn.append(Drawn(name, caption, (), f"not a validation that this version reads ({error!r})"))
    return drawn


def _gap(root: Path, runs: pd.DataFrame) -> Sheet:
    return pictures.gap.sheet(gap_frame(root, set(runs["folder"])), None, about(runs))


def _of_latency(runs: pd.DataFrame) -> str:
    """What there is to see: one budget has no lines; runs without bounds have neither area nor cheats."""
    lines = len(set(runs["budget_bytes"])) > 1
    bound = bool(runs["bound_ms_per_token"].notna().any())
    cheats = runs[[f"{name}_tpot_ms_mean" for name in REFERENCE_ROWS]].notna().any(axis=None)
    area = HOSTED if runs["host_lookups"].any() else BOUND
    return LATENCY + LINES * lines + area * bound + EDGE * (bound and lines) + CHEATS * bool(cheats)


def _of_link(runs: pd.DataFrame) -> str:
    return LINK + BYTES * bool(runs["bound_bytes"].notna().any())


LATENCY = "Latency against GPU memory."
LINES = " Lines between budgets guide the eye."
BOUND = " Nothing lossless that computes on the GPU can lie in the grey area."
HOSTED = " Nothing lossless can lie in the grey area, whether the GPU computes all experts or the host some of them."
EDGE = " Its upper edge is exact at the budgets that were run; between two of them the larger one's holds."
CHEATS = " Reference rows cheat, and show how much cheating would help (infinite has all the memory there is)."
FRONT = "Latency against what lossy policies keep of the model's output; a larger marker for a larger budget."
STALLS = (
    "Where the time of a generated token goes. The parts add up, exactly, to all the time from the start of the first"
    " measured request to the end of the last. Each budget has a scale of its own."
)
GAP = (
    "What lossless runs take beyond the bound: what victims by the future, prefetch of one layer and of all that is to"
    " come, and experts that pass by would be worth. python -m sim regret judges each eviction."
)
HITS = "The four hit rates that papers mix up, over the lookups of each phase."
FATES = "What became of the prefetches: useful ones were complete before they were demanded, late ones after."
LINK = "How busy the link was, and what was copied."
BYTES = " Nothing lossless copies less than the bound where the GPU computes all experts; the host's need no copy."
LAYERS = "Layer by layer: complete hits, and stalls"
POPULARITY = "How often each expert was chosen, over the whole trace: orange is more often than by uniform choice."
REUSE = (
    "Reuse distances, over the whole trace: how many other experts of its layer were demanded since an expert's last"
    " demand. A layer's pool of c slots under LRU hits the lookups below c, as long as a step's demand fits into it."
)
MEASURED = "Predicted by the simulator against measured on the device"


def _draw(name: str, caption: str, make: Callable[[], Sheet]) -> Drawn:
    try:
        it = make()
        panels = [(panel.title, pictures.svg(together([panel], "", it.about))) for panel in it.panels]
        return Drawn(name, caption, panels)
    except pictures.EmptyPictureError as error:
        return Drawn(name, caption, (), str(error))


def _policies(document: Mapping[str, Any]) -> list[str]:
    """The policies of a validation; none of what is no validation, which says so when it is drawn."""
    try:
        return [label(row["policy"]) for row in document["cells"]]
    except (KeyError, TypeError, AttributeError):
        return []


def _trace(runs: pd.DataFrame, root: Path) -> tuple[Trace | None, str]:
    """The trace that the runs replayed, if it is still where they found it and what it was."""
    wanted = str(runs["trace"].iloc[0])
    try:
        word = traced(root / str(runs["folder"].iloc[0]))
        trace = open_trace(find_trace(word))
    except (UserError, OSError) as error:
        return None, f"the trace cannot be read again: {error}"
    if trace.sha256 != wanted:
        return None, f"trace={word} is another one now ({trace.sha256[:12]}, the runs replayed {wanted[:12]})"
    return trace, ""


def _validations(root: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """Documents of ``real validate`` that lie in ``root`` or a folder in it."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    own = ("result.json", "bounds.json", "timeline.json")
    for path in sorted(it for it in (*root.glob("*.json"), *root.glob("*/*.json")) if it.name not in own):
        try:
            document = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            continue  # any other file of a person
        if isinstance(document, dict) and isinstance(document.get("cells"), list) and "provenance" in document:
            found.append((path.relative_to(root).as_posix(), document))
    return found
