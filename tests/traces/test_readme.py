"""traces/README.md's way from somebody else's recording to a table, followed as it stands there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "traces" / "README.md").read_text(encoding="utf-8")
ELSEWHERE = PAGE.partition("## Bring a trace from elsewhere")[2].partition("\n## ")[0]


@pytest.mark.ci
def test_the_commands_work_as_they_stand(tmp_path: Path) -> None:
    write_own_hook(tmp_path / "routing.jsonl")
    write_responses(tmp_path / "responses.jsonl")
    env = os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    blocks = re.findall(r"^```sh\n(.*?)^```$", ELSEWHERE, flags=re.MULTILINE | re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) == 6
    for command in commands:
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stderr}"


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
