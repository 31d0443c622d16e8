"""The commands of README.md and of traces/README.md are run as they stand there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
README, TRACES = ((ROOT / page / "README.md").read_text(encoding="utf-8") for page in ("", "traces"))
ELSEWHERE = TRACES.partition("## Bring a trace from elsewhere")[2].partition("\n## ")[0]
ENV = os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, shell=True, cwd=folder, env=ENV, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done


def test_there_are_two_set_up_commands() -> None:
    assert [block.count("\n") for block in blocks(README, "sh setup")] == [1, 1]


@pytest.mark.ci
def test_every_other_command_works(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="collecting needs the hf extra")
    (tmp_path / "traces").symlink_to(ROOT / "traces")
    commands = [line for block in blocks(README, "sh") for line in block.splitlines() if line.startswith("python -m ")]
    assert len(commands) > 5
    for command in commands:
        done = shell(command, tmp_path)
        assert done.stdout or "wrote" in done.stderr, command


@pytest.mark.ci
def test_the_table_shown_is_the_one_printed(tmp_path: Path) -> None:
    printed = shell("python -m sim run policy=fmoe budget=8GB", tmp_path).stdout
    shown = "\n".join(line.rstrip() for line in printed.splitlines())
    assert f"```\n{shown}\n```" in README


# The way from somebody else's recording to a table.
@pytest.mark.ci
def test_a_trace_comes_from_elsewhere_as_it_stands(tmp_path: Path) -> None:
    write_own_hook(tmp_path / "routing.jsonl")
    write_responses(tmp_path / "responses.jsonl")
    commands = [line for block in blocks(ELSEWHERE, "sh") for line in block.splitlines()]
    assert len(commands) == 6
    for command in commands:
        shell(command, tmp_path)


def write_own_hook(path: Path) -> None:
    """The page's own two examples, a header and a line, as a file of ten requests."""
    line, header = (json.loads(found) for found in re.findall(r'`({"(?:request|model)".*?})`', ELSEWHERE))
    rng = np.random.default_rng(0)
    lines = [header]
    for request in range(10):
        for token in range(12):
            for layer in range(header["n_layers"]):
                ids = rng.permutation(header["n_experts"])[: header["top_k"]].tolist()
                phase = "prefill" if token < 8 else "decode"
                lines.append(line | {"request": request, "phase": phase, "token": token, "layer": layer, "ids": ids})
    path.write_text("".join(f"{json.dumps(one)}\n" for one in lines), encoding="utf-8")


def write_responses(path: Path) -> None:
    """Responses of a server of Qwen3-30B-A3B's shape."""
    ids = np.argsort(np.random.default_rng(0).random((9, 48, 128)), axis=-1)[..., :8]
    answer = {"usage": {"prompt_tokens": 6, "completion_tokens": 4}, "choices": [{"routed_experts": ids.tolist()}]}
    path.write_text(f"{json.dumps(answer)}\n" * 4, encoding="utf-8")
