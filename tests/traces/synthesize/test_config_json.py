"""A trace of the shape of a model that only its config.json tells."""

import json
import shutil
from pathlib import Path

import pytest

from traces import open_trace
from traces.cli import main
from traces.models.profile import profile_of

pytest.importorskip("transformers", reason="a config.json is read by the extra 'hf'")
CONFIGS = Path(__file__).parents[1] / "models" / "configs"


def test_of_the_shape_in_a_config(tmp_path: Path) -> None:
    folder = tmp_path / "Tiny"
    folder.mkdir()
    shutil.copy(CONFIGS / "mixtral_8x7b.json", folder / "config.json")
    words = ("like=tiny-moe", "requests=2", "prompt=8", "output=4", "signals=none")
    for name, model in (("a", folder), ("b", folder / "config.json")):
        assert main(["synthesize", f"model={model}", *words, f"out={tmp_path / name}"]) == 0
    trace, profile = open_trace(tmp_path / "a"), profile_of(folder)
    assert (trace.L, trace.E, trace.K) == (32, 8, 2)
    about = trace.manifest.model
    assert (about.name, about.dtype, about.expert_bytes) == ("Tiny", "bfloat16", (352321536,) * 32)
    assert about.shapes is not None
    assert about.shapes.items() <= profile.items()
    assert (trace.expert_ids[:] == open_trace(tmp_path / "b").expert_ids[:]).all()


def test_a_mistake_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    for model, said in ((tmp_path, "an encoder with a decoder"), (tmp_path / "x.json", "no such file")):
        assert main(["synthesize", f"model={model}", f"out={tmp_path / 't'}"]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
