"""The words of a command as its dataclass declares them."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traces.kit.command import page, usage
from traces.kit.errors import UserError
from traces.kit.words import Between, Flag, Others, Position, folder, parse, plain_name, printable, words_of


@dataclass(frozen=True, kw_only=True)
class Words:
    """Does something.

    {keys}

      python -m it does a=b
    """

    log: Callable[[str], None] = print
    source: Annotated[Path, Position("SRC"), "is read"]
    target: Annotated[Path | None, Position("DST"), "is written"] = None
    out: Annotated[Path, "where"]
    count: Annotated[int, Between(1, 64), "how many"] = 4
    rate: Annotated[float | None, Between(0, 1), "how often"] = None
    part: Annotated[Fraction, Between(0, 1), "of all"] = Fraction(1, 2)
    exact: Annotated[bool, "to the bit", Flag("-x", "--exact")] = False
    format: Annotated[Literal["table", "json"], ""] = "table"
    title: Annotated[str, printable, "of the page"] = ""
    config: Annotated[str, Flag("--config"), "a file"] = ""


@dataclass(frozen=True)
class Several:
    names: Annotated[tuple[str, ...], Position("NAME"), "of policies"]


LISTED = {"policy": "what decides", "budget": "how much"}


@dataclass(frozen=True)
class Open:
    folder: Annotated[str, Position("DIR"), "of results"]
    rest: Annotated[tuple[str, ...], Others(LISTED, LISTED.copy), ""]
    metric: Annotated[str, "of the table"] = "tpot"


def read(*words: str, of: type = Words) -> Any:
    return parse(of, words, usage("it", of))


def refused(*words: str, of: type = Words) -> str:
    with pytest.raises(UserError) as caught:
        read(*words, of=of)
    return str(caught.value)


def test_every_kind_of_word() -> None:
    words = ("in", "out=o", "count=64", "rate=0.5", "part=2/3", "exact=true", "format=json", "title=A b", "to")
    given: dict[str, Any] = {"count": 64, "rate": 0.5, "part": Fraction(2, 3), "exact": True, "title": "A b"}
    assert read(*words) == Words(source=Path("in"), target=Path("to"), out=Path("o"), format="json", **given)
    assert read("in", "out=o") == Words(source=Path("in"), out=Path("o"))


def test_other_spellings() -> None:
    assert read("in", "out=o", "-x") == read("--exact", "out=o", "in") == read("in", "out=o", "exact=true")
    assert read("in", "out=o", "--config", "c.yaml").config == "c.yaml"
    assert refused("in", "out=o", "-x", "exact=true") == "exact=true: exact is given twice"
    assert refused("in", "out=o", "exact=false", "-x") == "-x true: exact is given twice"
    assert refused("in", "out=o", "--config").startswith("--config: a value is wanted behind it; usage: it SRC")


def test_a_field_without_a_text_is_no_word() -> None:
    assert refused("in", "out=o", "log=x").startswith("log=x: no such key; allowed: out, count, ")


def test_an_empty_value_is_taken_where_it_is_the_default() -> None:
    assert read("in", "out=o", "title=", "config=").title == ""
    assert refused("in", "out=") == "out=: allowed: a text"
    assert refused("", "out=o") == "source=: allowed: a text"
    assert refused("in", "out=o", "rate=") == "rate=: allowed: a number, 0 to 1"


def test_a_path_may_hold_an_equals_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read("runs/budget=4GB", "out=o").source == Path("runs/budget=4GB")
    assert refused("budget=4GB", "out=o").startswith("budget=4GB: no such key")
    (tmp_path / "budget=4GB").touch()
    (tmp_path / "--odd").touch()
    assert read("budget=4GB", "--odd", "out=o").target == Path("--odd")


def test_home_is_found_where_no_shell_looks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert read("in", "out=~/o").out == Path("/home/me/o")
    assert read("in", "out=~nobody-of-this-name/o").out == Path("~nobody-of-this-name/o")


def test_several_in_one_position() -> None:
    assert read("a", "b", of=Several) == Several(("a", "b"))
    assert refused(of=Several) == "missing NAME; usage: it NAME [NAME ...]"
    assert refused("a=1", of=Several) == "a=1: no such key; allowed: it NAME [NAME ...]"


def test_the_words_of_what_was_read_give_it_again() -> None:
    for words in (["in", "out=o"], ["in", "to", "out=o", "count=7", "exact=true", "title=A b"]):
        assert words_of(read(*words)) == words
    assert words_of(read("policy=lru", "runs", "metric=ttft", of=Open)) == ["runs", "metric=ttft", "policy=lru"]
    assert words_of(Several(("a", "b"))) == ["a", "b"]


def test_words_of_others() -> None:
    found = read("policy=lru", "+policy.scope=layer", "~budget", "runs/policy=lru", "metric=ttft", of=Open)
    assert found == Open("runs/policy=lru", ("policy=lru", "+policy.scope=layer", "~budget"), "ttft")
    said = "polcy=lru: no such key; allowed: policy, budget, metric; did you mean policy?"
    assert refused("runs", "polcy=lru", of=Open) == said
    assert "  policy  what decides\n  budget  how much\n" in page("it", Open)


def test_marks() -> None:
    assert (printable("a b"), plain_name("a-1.b_c")) == ("a b", "a-1.b_c")
    for mark, value in ((printable, "a\nb"), (printable, ""), (plain_name, "../a"), (folder, __file__), (folder, "")):
        with pytest.raises(ValueError, match=r"\w"):
            mark(value)
    assert refused("in", "out=o", "title=a\nb") == "title=a\\nb: allowed: printable text"


def test_the_page() -> None:
    assert page("it", Words) == (
        "it SRC [DST] out=... [key=value ...]\n\nDoes something.\n\n"
        "  SRC     is read\n"
        "  out     where\n"
        "  DST     is written\n"
        "  count   how many  [4]\n"
        "  rate    how often\n"
        "  part    of all  [1/2]\n"
        "  exact   to the bit (true | false)  [false]\n"
        "  format  table | json  [table]\n"
        "  title   of the page\n"
        "  config  a file\n"
        "\n  python -m it does a=b\n"
    )


WORDS = ("out=o", "in", "count=7", "-x", "--config", "rate=1", "count=x")


@given(st.lists(st.text(max_size=8) | st.sampled_from(WORDS), max_size=6))
def test_any_words_are_read_or_refused_in_one_line(words: list[str]) -> None:
    said = ""
    try:
        assert 1 <= read(*words).count <= 64
    except UserError as error:
        said = str(error)
    assert not said or said.isprintable()
