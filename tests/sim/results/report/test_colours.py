"""A policy has one look everywhere, by its name; causes of stalls and fates of prefetches have colours of their own."""

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from policies import registry
from sim.results import pictures
from sim.results.compare import Comparison
from sim.results.pictures import colours
from sim.results.pictures.colours import BETWEEN, CAUSES, COMPUTE, ENDS, POLICIES, colour_of, looks
from traces.kit.drawing import readable, series

STRANGERS = ["mru", "arc", "clock", "s3fifo", "lhd", "mine", "theirs (a=1)", "$_"]
VARIANTS = ["lru (scope=layer)", "fmoe (distance=1)", "fmoe (distance=2)", "fmoe (eviction=lru)"]


def test_every_policy_has_a_colour_of_its_own() -> None:
    """A new one needs no place in the table: it has a colour by its name, as other people's have."""
    names = {name for name in registry.names() if not registry.find(name).clairvoyant}
    assert set(POLICIES) <= names, "no place is kept for one that is gone"
    assert len({colour_of(name) for name in names}) == len(names)
    assert len({colour for colour, _ in POLICIES.values()}) == len({it for _, it in POLICIES.values()}) == len(POLICIES)


def test_a_colour_depends_on_the_name_alone() -> None:
    everyone = [*POLICIES, *VARIANTS, *STRANGERS]
    whole = looks(everyone)
    for size in (1, 2, 3, 7):
        for some in itertools.islice(itertools.combinations(reversed(everyone), size), 0, 4000, 97):
            for label, look in looks(some).items():
                assert look.colour == whole[label].colour == colour_of(label)
                if label in POLICIES:
                    assert (look.marker, look.dash) == (whole[label].marker, whole[label].dash)
    assert {whole[label].colour for label in VARIANTS if label.startswith("fmoe")} == {POLICIES["fmoe"][0]}


def test_none_comes_twice_among_what_is_drawn_together() -> None:
    found = looks([*POLICIES, *VARIANTS, *STRANGERS, *(f"stranger_{i}" for i in range(80))])
    assert len({(str(look.marker), str(look.dash)) for look in found.values()}) == len(found), "told apart in grey"
    few = looks([*POLICIES, *VARIANTS[:2], "mru", "arc"]).values()
    assert len({str(look.marker) for look in few}) == len(few), "at one budget there is no dash"
    own = [found[name].colour for name in (*POLICIES, *STRANGERS)]
    assert len(set(own)) == len(own)


def test_kinds_of_colours_are_apart() -> None:
    """At least 10 in CIE L*a*b*, of which 2.3 can just be seen; strangers are 20 from everything."""
    kinds = [
        [colour for colour, _ in POLICIES.values()],
        [colour for colour, _ in CAUSES.values()],
        [COMPUTE[0], BETWEEN[0]],
    ]
    kinds.append([colour for colour, _ in ENDS.values()])
    for one, other in itertools.combinations(kinds, 2):
        apart = np.linalg.norm(colours._lab(one)[:, None] - colours._lab(other), axis=2)
        assert apart.min() >= 10
    of_the_standard = np.array([(100, 0, 0), (0, 0, 0), (53.2, 80.1, 67.2)])
    assert colours._lab(["#ffffff", "#000000", "#ff0000"]) == pytest.approx(of_the_standard, abs=0.2)
    strangers = [colour_of(name) for name in STRANGERS]
    near = np.linalg.norm(colours._lab(strangers)[:, None] - colours._lab(itertools.chain(*kinds)), axis=2)
    assert near.min() >= 20
    assert not {look["color"] for look in series(6)} & set(itertools.chain(*kinds))


@pytest.mark.parametrize("palette", [CAUSES, ENDS])
def test_neighbours_in_a_bar_are_told_apart_in_grey(palette: dict[str, tuple[str, str]]) -> None:
    parts = [COMPUTE, BETWEEN, *palette.values()] if palette is CAUSES else list(palette.values())
    for (one, a), (other, b) in itertools.pairwise(parts):
        lightness = [np.dot(to_rgb(colour), (0.299, 0.587, 0.114)) for colour in (one, other)]
        assert a != b or abs(lightness[0] - lightness[1]) > 0.2


def _drawn(figure: Figure) -> dict[str, set[str]]:
    """Colours of lines by their labels."""
    found: dict[str, set[str]] = {}
    for line in itertools.chain.from_iterable(axes.lines for axes in figure.axes):
        found.setdefault(str(line.get_label()).removesuffix(" (lossy)"), set()).add(to_hex(line.get_color()).upper())
    return found


def test_a_policy_is_the_same_in_every_picture(runs: pd.DataFrame, compared: Comparison) -> None:
    few = runs[runs["policy"] != "fmoe"]
    cells = compared.cells
    for draw, frame in (
        (pictures.latency, runs),
        (pictures.latency, few[few["policy"] != "lru"]),
        (pictures.hits, runs[runs["policy"] != "gate_ahead"]),
        (pictures.link, runs),
        (pictures.front, cells[cells["policy_label"] != "lru"]),
    ):
        seen = {name: its for name, its in _drawn(draw(frame)).items() if name in set(runs["policy_label"])}  # type: ignore[operator]
        assert seen
        for name, its in seen.items():
            assert its == {POLICIES[name][0]}
    fills = {to_hex(bar.get_facecolor()).upper() for axes in pictures.stalls(runs).axes for bar in axes.patches}
    fills |= {to_hex(bar.get_facecolor()).upper() for axes in pictures.fates(runs).axes for bar in axes.patches}
    assert len(fills) > 4
    assert not fills & {colour for colour, _ in POLICIES.values()}


def test_text_of_a_colour_can_be_read_on_white() -> None:
    for colour, _ in POLICIES.values():
        rgb = np.array(to_rgb(readable(colour)))
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        assert 1.05 / (linear @ (0.2126, 0.7152, 0.0722) + 0.05) >= 4.5
    assert readable("#0072B2").upper() == "#0072B2", "what can be read is left as it is"
