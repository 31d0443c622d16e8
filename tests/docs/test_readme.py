"""The README's commands are run as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def test_there_are_two_set_up_commands() -> None:
    assert [block.count("\n") for block in _blocks("sh setup")] == [1, 1]


@pytest.mark.ci
def test_every_other_command_works(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="collecting needs the hf extra")
    (tmp_path / "traces").symlink_to(ROOT / "traces")
    env = os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    commands = [line for block in _blocks("sh") for line in block.splitlines() if line.startswith("python -m ")]
    assert len(commands) > 5
    for command in commands:
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert done.stdout or "wrote" in done.stderr, command


def test_the_table_shown_is_the_one_printed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sim", "run", "policy=fmoe", "budget=8GB"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    printed = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True).stdout
    shown = "\n".join(line.rstrip() for line in printed.splitlines())
    assert f"```\n{shown}\n```" in README
