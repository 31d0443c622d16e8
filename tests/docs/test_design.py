"""docs/design.md says what is so: its paths, tests and tables are real, and what the code says of it stands there."""

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from sim.cli import main
from sim.experiment.run import run_config
from tests.sim.small_trace import MACHINE, SIZE, Plan, config, one_layer
from traces.format.layout import PREDICTED
from traces.format.manifest import KNOWN_FILES, MANIFEST_FILE

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/design.md").read_text(encoding="utf-8")
ROOMS = ("traces", "policies", "sim", "real", "conf", "notebooks", "tests", "docs")
SECTIONS = dict(re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", PAGE, re.MULTILINE))
RULES = {int(n): text for n, text in re.findall(r"^### (\d+)\. .+\n((?:(?!##).*\n)*)", PAGE, re.MULTILINE)}
CODE = re.findall(r"`([^`\n]+)`", PAGE)


def texts() -> Iterator[tuple[Path, str]]:
    """All that people write here, but for what was recorded or drawn."""
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*")] + list(ROOT.glob("*.*"))
    for path in sorted(files):
        if path.suffix in (".py", ".md", ".yaml", ".toml", ".ipynb") and path != Path(__file__):
            yield path, path.read_text(encoding="utf-8")


def test_every_path_and_test_exists() -> None:
    named = [word for word in CODE if re.fullmatch(r"\w+/[\w./]*(?:::\w+)?", word) and word.split("/")[0] in ROOMS]
    assert len(named) > 60
    for word in named:
        path, _, test = word.replace("NAME", "lru").partition("::")
        assert (ROOT / path).exists(), word
        if test:
            tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
            assert test in {item.name for item in tree.body if isinstance(item, ast.FunctionDef)}, word
    for link in re.findall(r"\]\(([^)#]+)", PAGE):
        assert (ROOT / "docs" / link).exists(), link


def test_every_rule_has_its_bug_and_a_test() -> None:
    assert list(RULES) == list(range(1, 12))
    for number, text in RULES.items():
        _, bug, held = re.split(r"^\*(?:Prevents|Held by)\*:", text, flags=re.MULTILINE)
        assert bug.strip(), number
        assert "::test_" in held, number


def test_every_folder_of_code_has_its_line() -> None:
    named = set(re.findall(r"`(\S+)/`", SECTIONS["The layout"]))
    for room in ("traces", "sim", "real"):
        found = {f"{room}/{path.parent.name}" for path in (ROOT / room).glob("*/*.py")}
        assert found <= named, room


def test_the_tables_are_those_of_the_code(tmp_path: Path) -> None:
    files = [word.split("/")[0] for word in re.findall(r"^\| `(\S+)` ", SECTIONS["The trace format"], re.MULTILINE)]
    assert sorted(files) == sorted((MANIFEST_FILE, *KNOWN_FILES, PREDICTED))
    trace = one_layer(tmp_path / "t", [Plan((1,), 2)], [0, 1, 0])
    several = {"hardware": {**MACHINE, "gpus": 2}, "placement": "replicate"}
    document = run_config(config(trace, 4 * SIZE, bounds=True, **several), tmp_path / "out").document
    heads = re.findall(r"^\| (`.+?) \| ", SECTIONS["The result"], re.MULTILINE)
    told = sorted(key for head in heads for key in re.findall(r"`(\w+)`", head))
    assert told == sorted({*document, "host_memory", "scores", "versions"})


class Decided(BaseException):
    """The first victim was chosen."""


def test_the_journey_is_true(tmp_path: Path) -> None:
    """Its functions are called first in that order; and no file of an experiment is entered time and again."""
    row = re.compile(r"^\| `(\S+)` \| `(\S+)` \|", re.MULTILINE)
    told = row.findall(SECTIONS["From a policy's name to a decision"])
    called: list[tuple[str, str]] = []
    entered: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _: object) -> None:
        code, caller = frame.f_code, frame.f_back
        if event == "call" and code.co_filename.startswith(f"{ROOT}/") and not code.co_name.startswith("<"):
            path = code.co_filename.removeprefix(f"{ROOT}/")
            called.append((path, code.co_qualname))
            entered[path] += caller is None or caller.f_code.co_filename != code.co_filename
            if called[-1] == told[-1]:
                raise Decided

    sys.setprofile(note)
    try:
        with pytest.raises(Decided):
            main(["run", "policy=lru", "budget=4GB", "limit=1", "bounds=false", f"out={tmp_path}"])
    finally:
        sys.setprofile(None)
    assert [function for function in dict.fromkeys(called) if function in told] == told
    often = {path: n for path, n in entered.items() if path.startswith("sim/experiment/") and n > 6}
    assert not often


def test_what_is_said_of_the_page_stands_there() -> None:
    said = 0
    for path, text in texts():
        where = path.relative_to(ROOT).as_posix()
        for words in re.findall(r"\brules? (\d+(?:(?:, | and | to )\d+)*)", text):
            assert {int(n) for n in re.findall(r"\d+", words)} <= RULES.keys(), f"{where}: rule {words}"
            said += 1
        for title in re.findall(r"docs/design\.md, (?!rules? \d)([A-Z][a-z' ]+)", text):
            assert any(title.startswith(section) for section in SECTIONS), f"{where}: {title}"
        assert not re.search(r"\bDESIGN\b", text), f"{where}: the page is docs/design.md"
    assert said > 20


@pytest.mark.parametrize("word", ["flat number", "flat expert number", "global id"])
def test_one_word_for_one_thing(word: str) -> None:
    """An expert's number has one name: see docs/design.md, Words."""
    assert [path.name for path, text in texts() if word in text and path.name != "CHANGELOG.md"] == []
