"""A model by its config.json: the same results as by its name, and by value in the cell."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from sim.cli import main
from sim.experiment.budget import Room
from sim.experiment.cell import make_cell
from sim.experiment.compose import read_config
from sim.experiment.config import RunConfig, dump_configs, load_config
from sim.experiment.provenance import identify
from sim.experiment.run import run_config
from sim.experiment.sweep.plan import read_grid
from sim.prices import HardwareProfile, ModelProfile, shipped
from tests.sim.saying import refused

CONFIGS = Path(__file__).parents[2] / "traces" / "models" / "configs"
WORDS = ("policy=lru", "budget=4GB", "limit=1", "bounds=false")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder, as it is downloaded."""
    pytest.importorskip("transformers", reason="a config.json is read by the extra 'hf'")
    folder = tmp_path / "My OLMoE"
    folder.mkdir()
    shutil.copy(CONFIGS / "olmoe_1b_7b.json", folder / "config.json")
    return folder


def key(config: RunConfig) -> str:
    return identify(make_cell(config), ()).key


def test_the_results_are_those_of_the_shipped_profile(folder: Path, tmp_path: Path) -> None:
    documents = []
    for model in (f"{folder}/config.json", str(folder), "olmoe_1b_7b"):
        out = run_config(read_config([*WORDS, f"model={model}"]), tmp_path / "out").folder
        documents.append(json.loads((out / "result.json").read_text()))
    by_file, by_folder, by_name = documents
    assert by_file == by_folder
    assert by_file["provenance"]["model"]["name"] == "My OLMoE"
    for document in documents:
        del document["provenance"], document["config"]
    assert by_file == by_name


def test_what_it_holds_is_in_the_cell_and_not_where_it_lies(folder: Path, tmp_path: Path) -> None:
    words = [*WORDS, f"model={folder}"]
    config = read_config(words)
    moved = shutil.copytree(folder, tmp_path / "elsewhere" / folder.name)
    assert key(read_config([*WORDS, f"model={moved}"])) == key(config)
    (tmp_path / "config.yaml").write_text(dump_configs([config]))
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_key_value_heads": 8}))
    assert key(read_config(words)) != key(config)
    assert key(load_config(tmp_path / "config.yaml")) == key(config)
    assert key(read_config([*words, "model.dtype=int4"])) != key(read_config(words))


def test_a_profile_may_be_written_in_json(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(shipped("model", "olmoe_1b_7b")))
    assert read_config([f"model={file}"]) == read_config(["model=olmoe_1b_7b"])


def test_a_sweep_takes_several(folder: Path) -> None:
    grid = read_grid([f"model={folder}/config.json,olmoe_1b_7b", "budget=4GB,8GB"])
    assert [it.model["name"] for it in grid] == [folder.name] * 2 + ["olmoe_1b_7b"] * 2


def test_a_mistake_is_one_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "none").mkdir()
    assert "holds no config.json; allowed: " in refused(["run", f"model={tmp_path}/none"], capsys)
    assert "no such file; allowed: a model's config.json" in refused(["run", "model=no/config.json"], capsys)
    other = f"model={CONFIGS}/qwen3_30b_a3b.json"
    assert "has layers 48, trace=sample has 16; a trace is priced only as" in refused(["run", other], capsys)
    (folder / "config.json").write_text('{"model_type": "t5"}')
    for words in (
        ["run", f"model={folder}"],
        ["run", "-m", f"model={folder},olmoe_1b_7b"],
        ["curve", f"model={folder}"],
    ):
        assert "an encoder with a decoder; allowed: a decoder alone" in refused(words, capsys)


def test_without_transformers_all_other_models_are_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("torch", "transformers", "traces.models.parts"):
        monkeypatch.setitem(sys.modules, name, None)
    said = refused(["run", f"model={CONFIGS}/olmoe_1b_7b.json"], capsys)
    assert "pip install 'moe-offload-workbench[hf]'" in said
    assert main(["config", "model=olmoe_1b_7b"]) == 0


def test_a_matrix_of_both_embeddings_and_head_takes_room_once() -> None:
    given, machine = shipped("model", "olmoe_1b_7b"), HardwareProfile.from_dict(shipped("hardware", "rtx_4090"))
    apart, tied = (ModelProfile.from_dict({**given, "tied_embeddings": tied}) for tied in (False, True))
    assert Room.of(tied, machine, [], 1).bytes - Room.of(apart, machine, [], 1).bytes == 2 * 50304 * 2048


def test_what_is_not_tied_is_not_said() -> None:
    config = read_config([*WORDS, "model=olmoe_1b_7b"])
    assert "tied_embeddings" not in identify(make_cell(config), ()).resolved["model"]
