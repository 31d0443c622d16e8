"""One look per policy, by its name alone: the same in every picture. What is no policy has colours of its own."""

import colorsys
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import numpy as np
from matplotlib.colors import to_hex, to_rgb

from sim.core.accounts import FATES, STALLS

POLICIES: Mapping[str, tuple[str, str]] = {
    # Of Okabe and Ito, for those that are compared most.
    "lru": ("#D55E00", "o"),
    "promoe": ("#0072B2", "X"),
    "fmoe": ("#009E73", "^"),
    "moe_infinity": ("#CC79A7", "D"),
    "mixtral_offloading": ("#E69F00", "v"),
    "gate_ahead": ("#56B4E9", "s"),
    "swapmoe": ("#882255", "P"),
    "deepspeed": ("#332288", "<"),
    "on_demand": ("#999933", ">"),
    "static": ("#6B4E16", "h"),
    "random": ("#A67C52", "*"),
    "fifo": ("#B266FF", "p"),
    "lfu": ("#14532D", "d"),
    "lfu_incache": ("#8BC34A", "8"),
    "lfru": ("#4030E0", "H"),
}
"""Colour and marker of every policy that is shipped, by its name."""
_HOURGLASS, _BOW = ((-1, -1), (1, -1), (-1, 1), (1, 1)), ((-1, -1), (-1, 1), (1, -1), (1, 1))
_TALL, _FLAT = ((-0.4, -1), (0.4, -1), (0.4, 1), (-0.4, 1)), ((-1, -0.4), (1, -0.4), (1, 0.4), (-1, 0.4))
SPARE_MARKERS: tuple[Any, ...] = ((4, 1, 0), _TALL, (3, 1, 0), _BOW, _FLAT, (5, 0, 180), _HOURGLASS)
"""Vertices, or regular shapes as Matplotlib has them: no two alike, as variants of a policy share its colour."""
DASHES: tuple[Any, ...] = ("--", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)), (0, (3, 1, 1, 1)))
"""Of variants and of policies of other people's: a shipped one, at its defaults, has a whole line."""
COMPUTE = ("#D9D9D9", "")
BETWEEN = ("#C3B1DE", "...")
"""Activations on their way between GPUs."""
_CAUSES = (
    *(("#3D4F66", ""), ("#8497B0", "///"), ("#C9BBA8", "\\\\\\"), ("#6E5F53", "|||"), ("#96D5CE", "xxx")),
    ("#B87333", "..."),
)
CAUSES: Mapping[str, tuple[str, str]] = dict(zip(STALLS, _CAUSES, strict=True))
"""Colour and hatch of each cause of a stall: slates, browns, teal and copper, next to each other light and dark."""
_ENDS = (("#A8D5A2", ""), ("#F3D9A4", "///"), ("#E8B4B0", "xxx"), ("#D5D3EE", "|||"), ("#FFFFFF", ""))
ENDS: Mapping[str, tuple[str, str]] = dict(zip(FATES, _ENDS, strict=True))
"""Colour and hatch of each fate of a prefetch: pale."""


@dataclass(frozen=True, slots=True)
class Look:
    """How a policy is drawn; ``size`` of its marker in points."""

    colour: str
    marker: Any
    dash: Any
    size: float = 6.0

    @property
    def line(self) -> dict[str, Any]:
        """Keywords of ``Axes.plot``. A marker at 0 or at 100 % is drawn whole."""
        edge = {"linewidth": 1.3, "markersize": self.size, "markeredgecolor": "white", "markeredgewidth": 0.6}
        return {"color": self.colour, "marker": self.marker, "linestyle": self.dash, "clip_on": False, **edge}


Looks = Mapping[str, Look]


def looks(labels: Iterable[object]) -> dict[str, Look]:
    """A look per policy label, ``lru`` or ``lru (scope=layer)``.

    The colour depends on the policy's name alone: no shipped ones share one, and others have one of thousands each.
    Marker and dash of a shipped policy at its defaults depend on its name alone too. Those of others follow from the
    label, but for the second of two that would have the same: no pair of them comes twice in 130 policies.
    Markers shrink from the first to the last, which is drawn on top: of policies that are equal, all are seen.
    """
    names = sorted({str(label) for label in labels})
    step = 3.5 / max(1, len(names) - 1)
    free = list(product(SPARE_MARKERS, DASHES)) + list(product((m for _, m in POLICIES.values()), DASHES))
    taken: set[Any] = set()
    found = {}
    for i, name in enumerate(names):
        if name in POLICIES:
            marker, dash = POLICIES[name][1], "-"
        else:
            start = _hash(name) % (len(SPARE_MARKERS) * len(DASHES))
            order = [*free[start:], *free[:start]]
            # Where there is one budget there is no line: another marker is wanted, not another dash alone.
            chosen = next((it for it in order if it[0] not in {m for m, _ in taken}), None)
            marker, dash = chosen or next((it for it in order if it not in taken), order[0])
            taken.add((marker, dash))
        found[name] = Look(colour_of(name), marker, dash, 8 - step * i)
    return found


def colour_of(label: str) -> str:
    """Of a policy, whatever its parameters and whatever else is drawn: the table's, or one of the rest by a hash."""
    name = label.partition(" (")[0]
    return POLICIES[name][0] if name in POLICIES else _rest()[_hash(name) % len(_rest())]


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode(errors="replace")).digest()[:8], "big")


@cache
def _rest() -> tuple[str, ...]:
    """Colours that one tells from all above: at least 20 away from each in CIE L*a*b* (CIE 1976)."""
    above = [colour for colour, _ in (*POLICIES.values(), *CAUSES.values(), *ENDS.values(), COMPUTE)]
    steps = product(np.linspace(0, 1, 360, endpoint=False), np.linspace(0.3, 0.5, 9), (0.55, 0.7, 0.85))
    some = [to_hex(colorsys.hls_to_rgb(*it)) for it in steps]
    near = np.linalg.norm(_lab(some)[:, None] - _lab(above), axis=2).min(axis=1)
    return tuple(dict.fromkeys(colour for colour, distance in zip(some, near, strict=True) if distance >= 20))


def _lab(colours: Iterable[str]) -> np.ndarray:
    """CIE L*a*b* of sRGB colours, white D65 (IEC 61966-2-1)."""
    rgb = np.array([to_rgb(colour) for colour in colours])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([(0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505)])
    xyz = linear @ to_xyz.T / (0.9505, 1.0, 1.089)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack((116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])), axis=1)
