"""README's first picture, its title and README's verdict are those of the numbers beside it, and these are still so."""

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib as mpl
import pytest

from sim.experiment.run import run
from sim.results.columns import row
from tests.scripts import script_of
from traces.kit.drawing import svg

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = ("cell", "version")  # other code has another address
LARGEST = 60_000


@pytest.fixture(scope="module")
def first_picture() -> ModuleType:
    return script_of("docs/first_picture.py")


@pytest.fixture(scope="module")
def numbers(first_picture: ModuleType) -> Any:
    return first_picture.read()[1]


def words(text: str) -> str:
    return " ".join(text.split())


def test_title_and_verdict_are_the_numbers(first_picture: ModuleType, numbers: Any) -> None:
    page = words((ROOT / "README.md").read_text(encoding="utf-8"))
    assert f"![{first_picture.finding(numbers)}" in page
    assert first_picture.verdict(numbers) in page
    assert f"](docs/{first_picture.PICTURE.name})" in page


# A title outlives its numbers: no policy may be best that it does not speak of.
def test_other_numbers_want_another_title(first_picture: ModuleType, numbers: Any) -> None:
    fmoe = (numbers["policy"] == "fmoe") & (numbers["budget_bytes"] == first_picture.AT)
    better = numbers.assign(ms_per_token=numbers["ms_per_token"].where(~fmoe, 10.0))
    with pytest.raises(ValueError, match="find another title"):
        first_picture.finding(better)


def test_the_picture_is_the_one_drawn(first_picture: ModuleType) -> None:
    kept, drawn = (
        first_picture.PICTURE.read_bytes(),
        svg(first_picture.draw(*first_picture.read())),
    )
    again = "python docs/first_picture.py"
    assert len(kept) < LARGEST
    texts = re.compile(rb"<text[^>]*>([^<]+)")
    assert len(texts.findall(kept)) > 20
    assert texts.findall(kept) == texts.findall(drawn), again
    if f"matplotlib=={mpl.__version__}\n" in (ROOT / "constraints.txt").read_text(encoding="utf-8"):
        assert kept == drawn, again


def test_some_of_its_cells_say_the_same_now(first_picture: ModuleType, tmp_path: Path) -> None:
    said, numbers = first_picture.read()
    rows = numbers.set_index(["policy", "budget_bytes"])
    for label in (first_picture.BASE, first_picture.LAYER):
        own = ("budget=12GB", "bounds=false")
        done = run(*first_picture.POLICIES[label], *own, out=tmp_path).document
        kept = rows.loc[label, 12 * first_picture.GB]
        assert done["provenance"]["decision_digest"] == kept["decision_digest"]
        assert 1000 / done["throughput_tokens_per_s"] == pytest.approx(kept["ms_per_token"], rel=1e-5)
        assert first_picture.about(row(done, "")) == said
    some = list(first_picture.FINE)[2::20]
    found = first_picture.least(some).set_index("budget_bytes")["ms_per_token"]
    assert list(found) == pytest.approx([rows.loc[first_picture.BOUND, at]["ms_per_token"] for at in some], rel=1e-5)


@pytest.mark.ci
def test_all_of_its_cells_say_the_same_now(first_picture: ModuleType, tmp_path: Path) -> None:
    said, kept = first_picture.read()
    now, numbers = first_picture.measure(tmp_path)
    first_picture.write(now, numbers, tmp_path / "numbers.csv")
    _, numbers = first_picture.read(tmp_path / "numbers.csv")
    assert now == said
    assert numbers.drop(columns=list(LEFT_OUT)).equals(kept.drop(columns=list(LEFT_OUT)))


# What it says of GPUs holds while no folder of results is of one.
def test_no_gpu_has_checked_it(first_picture: ModuleType) -> None:
    measured = {path.name for path in (ROOT / "real" / "results").iterdir() if path.is_dir()}
    assert ("no GPU has checked it yet" in first_picture.read()[0]) == (measured == {"cpu"})
