"""One law of one variant: what is asked for is tried, and nothing else."""

import pytest

from sim.check import cli
from sim.check.cli import LAWS, Options, main
from sim.check.variants import Variant
from traces.kit.errors import UserError
from traces.kit.words import parse


def options(*words: str) -> Options:
    return parse(Options, words, "python -m sim check NAME ...")


def test_the_laws_and_the_variant_that_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(options("lru", "only=DocString,minimum,gpus", "variant=scope=layer")) == 0
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["lru: 1 variant"]
    assert [line[1] for line in lines[1:]] == ["GPUs", "minimum", "docstring"]


def test_a_law_that_is_broken_by_that_variant_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(variant: Variant) -> None:
        assert ("scope", "layer") not in variant.params, "planted"

    monkeypatch.setattr(cli, "assert_minimum", refuse)
    assert main(options("lru", "only=minimum", "variant=default")) == 0
    assert main(options("lru", "only=minimum", "variant=lru-scope=layer")) == 1
    assert main(options("lru", "only=decided", "variant=scope=layer")) == 0
    assert capsys.readouterr().out.count("BROKEN: lru-scope=layer: planted") == 1


def test_every_law_has_its_name() -> None:
    assert tuple(cli._laws("lru", [Variant("lru")], "default")) == LAWS
    assert options("lru", "only=hash_seeds,hash seeds").only == ("hash seeds",)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("only=cause", "only=cause: allowed: causality, rules, serving,"),
        ("only=", "only=: allowed: causality"),
        (
            "variant=scope=layr",
            "variant=scope=layr: lru has no such variant; allowed: default, scope=layer; did",
        ),
    ],
)
def test_a_slip_says_what_is_allowed(word: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        main(options("lru", word))
    assert str(caught.value).startswith(said)
