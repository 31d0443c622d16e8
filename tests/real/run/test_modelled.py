"""A run that serves prompts says what its policy and predictors learned from that nobody recorded."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from policies.predictors.saved import Fitted, save
from policies.promoe.fit import MLP
from real.cli import main
from traces import open_trace

pytest.importorskip("transformers", reason="prompts are served by the extra 'hf'")
SAMPLE = Path(__file__).resolve().parents[3] / "traces" / "sample"
WORDS = ["run", "budget=25%", "limit=1", "max_new_tokens=2", "format=json", "device=cpu", "threads=1"]
MADE = {"router_probs": {"rest": 0.3}}


def modelled(capsys: pytest.CaptureFixture[str], out: Path, *words: str) -> object:
    assert main([*WORDS, f"out={out}", *words]) == 0
    return json.loads(capsys.readouterr().out)["provenance"].get("modelled")


def test_what_a_predictor_learned_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("safetensors")
    sample, width = open_trace(SAMPLE), 128
    zero = np.zeros((width, sample.E), np.float32)
    layer = MLP(zero[:, 0], zero[:, 0] + 1, zero[:, :3], zero[0, :3], zero[:3], zero[0])
    about = {"kind": "promoe", "input": "hidden", "stride": 2, "top_k": sample.K, "layers": sample.L}
    about |= {"experts": sample.E, "model": ["tiny-moe", None], "prompts": None, "fit": {"modelled": MADE}}
    save(Fitted(about, (layer,) * (sample.L - 2)), tmp_path / "f")
    words = ("policy=promoe", f"predictor={tmp_path / 'f'}")
    assert modelled(capsys, tmp_path / "out", *words) == {"predictor promoe": MADE}


def test_what_a_policy_learned_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history = tmp_path / "history"
    shutil.copytree(SAMPLE, history, ignore=shutil.ignore_patterns("predicted"))
    about = json.loads((history / "trace.json").read_text())
    (history / "trace.json").write_text(json.dumps(about | {"modelled": MADE | {"gate_ahead": {"recall": [0.9]}}}))
    assert modelled(capsys, tmp_path / "out", "policy=fmoe", f"trace={history}") == {"history": MADE}
    assert modelled(capsys, tmp_path / "out", "policy=lru", f"trace={history}") is None
