"""Laws that every verb keeps: its page, one line for each kind of mistake in its words, one meaning for one name."""

import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest

from sim.experiment.words import KEYS
from traces.kit.command import Command, usage
from traces.kit.errors import allowing, meant
from traces.kit.words import Between, Key, Others, Position, keys_of

PROGRAMS = ("traces", "policies", "sim", "real")
ROOT = Path(__file__).resolve().parents[2]
NOUNS = {int: "a whole number", float: "a number", Fraction: "a number", bool: "true or false"}


class Verb(NamedTuple):
    """One command, and the words that call it."""

    words: tuple[str, ...]
    options: type

    def __str__(self) -> str:
        return " ".join(self.words)

    @property
    def keys(self) -> tuple[Key, ...]:
        return keys_of(self.options)

    @property
    def others(self) -> bool:
        """Whether any key may be given, since whoever reads the words is to judge."""
        return any((mark := key.mark(Others)) and not mark.known for key in self.keys)


def verbs() -> Iterator[Verb]:
    for name in PROGRAMS:
        program = import_module(f"{name}.cli").PROGRAM
        for verb in program.verbs:
            found = program.find(verb)
            if isinstance(found, Command):
                yield Verb((name, verb), found.options)
            else:
                yield from (Verb((name, verb, one), make().options) for one, make in found.commands().items())


VERBS = list(verbs())
each = pytest.mark.parametrize("verb", VERBS, ids=str)


def own(verb: Verb) -> list[Key]:
    """Its keys that are written with "="."""
    return [key for key in verb.keys if not key.mark(Position) and not key.mark(Others)]


def wrong(key: Key) -> list[str]:
    """Values that this key never takes."""
    if any(callable(mark) for mark in key.marks):
        return []
    if key.choices:
        return ["", "nosuch", f"{key.choices[0]} ", key.choices[0].upper()]
    if key.kind is int:
        ends = between(key)
        below = [f"{ends.low - 1:.0f}"] + ([] if ends.high == float("inf") else [f"{ends.high + 1:.0f}"])
        return ["", "few", "1.5", "1e3", " 3", "1_0", "9" * 30, "9" * 5000, *below]
    if key.kind is float:
        return ["", "few", "nan", " 1", "1_0", "9" * 5000, str(between(key).low - 1)]
    return []


def between(key: Key) -> Between:
    found = key.mark(Between)
    assert found is not None, f"{key.name}: how large may it be?"
    return found


def said(verb: Verb, words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that these words give, with exit status 2."""
    program, *rest = verb.words
    status = import_module(f"{program}.cli").main([*rest, *words])
    printed = capsys.readouterr()
    assert (status, printed.out, printed.err.count("\n")) == (2, "", 1), printed
    assert printed.err.startswith("error: ")
    assert len(printed.err) < 800
    return printed.err


@each
def test_the_page_fits_80_columns_and_lists_every_key(verb: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    program, *rest = verb.words
    assert import_module(f"{program}.cli").main([*rest, "surplus", "--help"]) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert shown.out.startswith(f"python -m {verb}")
    assert not shown.err
    assert [line for line in lines if len(line) > 80] == []
    listed = [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "]
    names = [key.shown.rstrip("=") for key in verb.keys if not key.mark(Others)]
    assert {*names} <= {*listed}
    assert len(shown.out) > 300


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_programs_page_names_every_verb(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    main = import_module(f"{program}.cli").main
    pages = []
    for words in ([], ["help"], ["-h"], ["--help"]):
        assert main(words) == 0
        pages.append(capsys.readouterr().out)
    assert len({*pages}) == 1
    assert pages[0].startswith(f"python -m {program} COMMAND ")
    assert max(map(len, pages[0].splitlines())) <= 80
    for verb in import_module(f"{program}.cli").PROGRAM.verbs:
        assert f"\n  {verb} " in pages[0]


@each
def test_a_key_that_is_not_its_own(verb: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    if verb.others:
        pytest.skip("its other keys are judged by who reads them")
    error = said(verb, ["nosuch=1"], capsys)
    assert error.startswith("error: nosuch=1: no such key; allowed: ")
    for key in own(verb):
        assert key.name in error
    for key in own(verb):
        error = said(verb, [f"{key.name[:-1]}_=1"], capsys)
        assert "; did you mean " in error or len(key.name) < 5, key.name


@each
def test_a_word_too_many_and_a_dash(verb: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    count = sum(key.mark(Position) is not None for key in verb.keys)
    if any(key.mark(Position) and "tuple" in str(key.kind) for key in verb.keys):
        pytest.skip("takes as many as there are")
    many = [f"x{number}" for number in range(count + 1)]
    assert f"x{count}: not understood; usage: python -m {verb}" in said(verb, many, capsys)
    assert said(verb, ["--nosuch"], capsys).startswith("error: --nosuch: no such key; allowed: ")


@each
def test_a_key_given_twice(verb: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    for key in own(verb):
        number = key.kind in (int, float) and not any(callable(mark) for mark in key.marks)
        value = key.choices[0] if key.choices else f"{between(key).low:g}" if number else None
        if value is not None:
            error = said(verb, [f"{key.name}={value}", f"{key.name}={value}"], capsys)
            assert error == f"error: {key.name}={value}: {key.name} is given twice\n"


@each
def test_what_is_missing(verb: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    if needed := [key.shown for key in verb.keys if key.needed]:
        assert said(verb, [], capsys).startswith(
            f"error: missing {', '.join(needed)}; usage: {usage(f'python -m {verb}', verb.options)}"
        )


@each
def test_a_value_that_it_cannot_be(verb: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    for key in own(verb):
        for value in wrong(key):
            error = said(verb, [f"{key.name}={value}"], capsys)
            assert error.startswith(f"error: {key.name}={value[:60]}")
            assert f": allowed: {key.allowed}" in error
        for choice in key.choices:
            assert f"did you mean {choice}?" in said(verb, [f"{key.name}={choice.upper()}"], capsys)


@each
def test_every_default_could_be_given(verb: Verb) -> None:
    for key in own(verb):
        if isinstance(key.default, bool | int | float | str):
            shown = str(key.default).lower() if isinstance(key.default, bool) else str(key.default)
            assert key.read(shown) == key.default, key.name


@each
def test_a_verb_that_is_nearly_one_is_offered(verb: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    program, name, *_ = verb.words
    error = said(Verb((program,), object), [f"{name}_"], capsys)
    assert error.startswith(f"error: {name}_: no such command; allowed: ")
    assert error.endswith(f"; did you mean {name}?\n")


def test_their_pages_need_no_package_that_a_server_may_lack() -> None:
    """Nor torch: a page is shown, and a slip is told, within a moment."""
    code = f"""
import sys
for name in ("torch", "transformers", "rich", "pyarrow", "pandas", "matplotlib", "hydra", "omegaconf"):
    sys.modules[name] = None
from importlib import import_module
for name in {[name for name in PROGRAMS if name != "sim"]!r}:
    program = import_module(name + ".cli").PROGRAM
    for verb in program.verbs:
        program.main([verb, "--help"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


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


# What a new user mistypes: one line with the key, the value and what is allowed, and the name that was meant.
@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("sim check policy=lru", "policy=lru: no such key; allowed: only, variant"),
        ("sim check lru_layr", "policy=lru_layr: unknown; allowed: belady_forced, daop,"),
        ("sim check lru_layr", "; did you mean lru_layer?"),
        ("sim check belady", "; did you mean belady_forced?"),
        ("sim bench beside=fmoe,lro", "beside=fmoe,lro: allowed: daop"),
        ("sim bench polcy=lru", "; did you mean policy?"),
        ("sim bench model=mixtral", "; did you mean mixtral_8x7b?"),
        ("sim curve policy.scop=layer", "policy.scop=layer: no such key; allowed: name, scope; did you mean scope?"),
        (
            "sim curve policy=fmoe",
            "policy=fmoe: prefetches, and its hits depend on time; allowed: what only admits and evicts, as fifo",
        ),
        ("policies fit promo trace=x out=y", "fit promo: no such predictor; allowed: promoe; did you mean promoe?"),
    ],
)
def test_a_slip_is_one_line_with_what_is_allowed(
    command: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    program, *words = command.split()
    assert import_module(f"{program}.cli").main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert said in printed.err
    assert list(tmp_path.iterdir()) == []


def test_what_is_near_and_what_is_not() -> None:
    names = ["lru", "fifo", "policy", "mixtral_8x7b", "gpt-oss-20b", "gpt-oss-120b"]
    near = {"lro": "lru", "LRU": "lru", "polciy": "policy", "mixtral": "mixtral_8x7b"}
    for given, name in near.items():
        assert allowing(given, names) == f"allowed: {', '.join(names)}; did you mean {name}?"
    assert meant("xyz", names) == ""
