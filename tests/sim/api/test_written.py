"""A policy of a notebook: it runs as what it is now, and no older answer is taken for its own."""

import itertools
import linecache
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import sim
from policies.given import GIVEN
from policies.lru import LRU
from sim.api.words import policy_name
from sim.experiment.code import code_digest
from sim.experiment.written import written
from sim.results.label import label

CELL = """
import numpy as np
from dataclasses import dataclass
from typing import Literal
from policies.api import Policy, Setup

Way = Literal["first", "last"]
FACTOR, TABLE = 3, np.arange(3)
unrelated = object()

@dataclass
class Note:
    at: int = 0

def helper(x):
    return x * FACTOR

class Mine(Policy):
    "The first one that can go. O(n). Lossless."

    name = "mine"
    order: Way = "first"

    def __init__(self, setup: Setup, *, way: Way = "first") -> None:
        super().__init__(setup)
        self.way, self.unrelated = way, helper(TABLE[0])
        self.note = Note()

    def victim(self, incoming, speculative):
        experts = [x for x in range(self.setup.n_all) if self.view.evictable(x)]
        return (experts[0] if self.way == "first" else experts[-1]) if experts else None
"""
NUMBER = itertools.count()
Make = Callable[..., Any]


@pytest.fixture
def make() -> Iterator[Make]:
    """Define the class as a notebook's cell does; words of the cell may be replaced."""

    def define(*changes: tuple[str, str]) -> Any:
        text = CELL
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        file = f"<cell {next(NUMBER)}>"
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
        scope: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(text, file, "exec"), scope)
        return scope["Mine"]

    yield define
    GIVEN.pop("mine", None)
    code_digest.cache_clear()


def test_a_class_runs_by_its_name_with_its_parameters(make: Make, tiny: Mapping[str, Any], tmp_path: Path) -> None:
    first, last = (sim.run(policy=it, out=tmp_path, **tiny) for it in (make(), {"name": make(), "way": "last"}))
    assert first.document["policy"]["name"] == "mine"
    assert last.folder != first.folder
    assert last.frame["decision_digest"].item() != first.frame["decision_digest"].item()
    assert "mine" in sim.policies().names


CHANGES = {
    "a method": ("experts[0]", "experts[1 % len(experts)]"),
    "a helper": ("x * FACTOR", "x + FACTOR"),
    "a number": ("FACTOR, TABLE = 3", "FACTOR, TABLE = 4"),
    "an array": ("arange(3)", "arange(4)"),
    "a default": ('way: Way = "first")', 'way: Way = "last")'),
    "an attribute": ('order: Way = "first"', 'order: Way = "last"'),
    "a field of another class": ("at: int = 0", "at: int = 1"),
    "a base": ("class Mine(Policy)", "class Mine(__import__('policies.lru').lru.LRU)"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_whatever_it_is_made_of_makes_it_another(change: tuple[str, str], make: Make) -> None:
    assert written(make()) == written(make())
    assert written(make(change)) != written(make())
    assert written(make(("unrelated = object()", "unrelated = 1"))) == written(make())  # nothing of it


ON_TOP = (("import numpy as np\n", "import numpy as np, beside_a\n"), ("x * FACTOR", "beside_a.first(x, FACTOR)"))
WITHIN = (("return x * FACTOR", "import beside_a\n    return beside_a.first(x, FACTOR)"),)


@pytest.mark.parametrize("changes", [ON_TOP, WITHIN])
def test_files_beside_a_notebook_count_with_what_they_import(
    changes: tuple[tuple[str, str], ...], make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Imported on top, or by a method when it runs; and what a file imports may change while the notebook runs."""
    monkeypatch.syspath_prepend(tmp_path)
    texts = {"beside_a": "from beside_b import first\n", "beside_b": "first = min\n", "beside_c": ""}

    def digest(**changed: str) -> str:
        for name, text in (texts | changed).items():
            (tmp_path / f"{name}.py").write_text(text)
        return code_digest(policy_name("policy", mine))

    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
        sys.modules.pop(name, None)
    mine = make(*changes)
    plain = digest()
    more = {"beside_a": "import beside_c\n" + texts["beside_a"]}
    found = [plain, digest(**more), digest(**more, beside_c="1\n"), digest(beside_b="first = max\n")]
    assert len(set(found)) == len(found)
    assert digest(beside_c="1\n") == digest() == plain


class Backwards(frozenset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return reversed(list(super().__iter__()))


def test_members_of_a_set_are_told_in_no_order(make: Make) -> None:
    mine, shared, found = make(), (1, 2), []
    for kind in (frozenset, Backwards):
        mine.__init__.__globals__["FACTOR"] = kind([("a", shared), ("b", shared)])
        found.append(written(mine))
    assert found[0] == found[1]


def test_a_class_changed_later_is_not_answered_by_what_it_was(make: Make) -> None:
    mine, found = make(), []
    for factor in (3, 5, 3):
        mine.__init__.__globals__["FACTOR"] = factor
        found.append(code_digest(policy_name("policy", mine)))
    assert found[0] == found[2] != found[1]


def test_what_cannot_be_told_is_refused(make: Make) -> None:
    with pytest.raises(sim.UserError, match=r"policy=mine: reads FACTOR, <object object .* whose content"):
        written(make(("TABLE = 3", "TABLE = object()")))
    linecache.cache.clear()
    lost: dict[str, Any] = {"__name__": "__main__"}
    exec(CELL, lost)
    with pytest.raises(sim.UserError, match=r"the source of .* is not to be found"):
        written(lost["Mine"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('name = "mine"', 'name = "lru"'), "policy=lru: the name of a policy that there is"),
        (('name = "mine"', 'name = "my policy"'), "name='my policy'; allowed: letters, digits and _"),
        (('name = "mine"', 'name = "mine"\n    clairvoyant = True'), "policy=mine: sees the future"),
    ],
)
def test_who_may_not_be_given(change: tuple[str, str], said: str, make: Make) -> None:
    with pytest.raises(sim.UserError, match=said):
        sim.run(policy=make(change), budget="8GB")


def test_a_shipped_class_is_its_name(tiny: Mapping[str, Any], out: Path) -> None:
    assert sim.run(policy=LRU, out=out, **tiny).folder == sim.run(policy="lru", out=out, **tiny).folder
    GIVEN.pop("lru")


def test_defaults_are_those_of_the_class_as_it_is_now(make: Make) -> None:
    for change in ("first", "last"):
        policy_name("policy", make(('way: Way = "first")', f'way: Way = "{change}")')))
        assert label({"name": "mine", "way": "first"}) == ("mine" if change == "first" else "mine (way=first)")
