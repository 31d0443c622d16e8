"""The version has one place, and no word of it is asked of an installation; conf/ is not found by its import name."""

import re
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import sim
import traces
from traces.kit import conf

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("traces", "policies", "sim", "real")


def ours() -> Iterator[tuple[Path, str]]:
    for path in [ROOT / "moe_offload.py", *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))]:
        yield path, path.read_text(encoding="utf-8")


@pytest.mark.parametrize("room", ROOMS)
def test_every_program_says_it(room: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert import_module(f"{room}.cli").main(["--version"]) == 0
    assert capsys.readouterr().out == f"moe-offload-workbench {traces.__version__}\n"


def test_it_is_the_same_everywhere() -> None:
    assert sim.__version__ == traces.__version__
    assert f"\nversion: {traces.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_it_stands_in_one_place() -> None:
    stated = [path for path, text in ours() if re.search(r"^__version__ = ", text, re.MULTILINE)]
    assert stated == [ROOT / "traces" / "version.py"]
    assert tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dynamic"] == ["version"]
    asked = r"importlib.metadata import .*\b(version|distribution|metadata)\b|metadata\.(version|distribution)\("
    asking = [path for path, text in ours() if re.search(asked, text)]
    assert asking == [ROOT / "sim/results/parquet.py"], "that asks for the version of pandas"


def test_conf_is_found_by_file() -> None:
    assert conf.FOLDER == ROOT / "conf"
    assert {path.name for path in conf.FOLDER.iterdir() if path.is_dir()} >= {"policy", "model", "hardware"}
    asked = r"""files\(["']conf|pkg://conf|initialize_config_module|import_module\(["']conf|^(import|from) conf\b"""
    assert not [path for path, text in ours() if re.search(asked, text, re.MULTILINE)]
