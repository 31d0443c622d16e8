"""One name, one meaning: every key that two commands have stands in CONTRIBUTING's table, and is read as it says."""

import re
from collections import defaultdict
from fractions import Fraction
from pathlib import Path

from sim.experiment.words import KEYS
from tests.install.test_every_verb import VERBS, own
from traces.kit.words import Key

ROOT = Path(__file__).resolve().parents[2]
NOUNS = {int: "a whole number", float: "a number", Fraction: "a number", bool: "true or false"}


def read_as(key: Key) -> str:
    return NOUNS.get(key.kind, "a choice" if key.choices else "a text")


def table() -> dict[str, str]:
    """How a key is read, by its name."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Commands, and")[2]
    return dict(re.findall(r"^\| `(\w+)` \| ([a-z ]+) \| \S.* \|$", text, re.MULTILINE))


def test_what_two_commands_have_means_the_same() -> None:
    kinds: defaultdict[str, set[str]] = defaultdict(set)
    commands: defaultdict[str, set[str]] = defaultdict(set)
    for key in KEYS:
        commands[key].add("a configuration")
    for verb in VERBS:
        for key in own(verb):
            kinds[key.name].add(read_as(key))
            commands[key.name].add(" ".join(verb.words[:2]))
    shared = {name for name, found in commands.items() if len(found) > 1}
    assert {name: " or ".join(sorted(kinds[name])) for name in shared} == table()
