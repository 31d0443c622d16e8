"""A model and two cards of a folder, and the command that is asked about them."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from sim.cli import main
from sim.plan.routing import OTHERS
from tests.sim.small_trace import MACHINE
from traces.kit import conf

SHAPE = {"moe_layers": 3, "experts": 8, "top_k": 2}
ALONE = {"gpus": 1, "peer": None, "root_gb_per_s": None}
DISK = {"gb_per_s": 0.2, "latency_us": 5}
CARD = {"gpu": {**MACHINE["gpu"], "memory_bytes": 14_000_000, "hbm_gb_per_s": 30}, "title": "Little"}


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of three layers and two cards, the large one with a disk; what is run there stays."""
    folder = tmp_path_factory.mktemp("world")
    own = yaml.safe_load((conf.FOLDER / "model" / "tiny-moe.yaml").read_text(encoding="utf-8"))
    (folder / "model.yaml").write_text(yaml.safe_dump(own | SHAPE | {"name": "small", "title": "Small"}))
    for name, memory in (("little", 6_000_000), ("large", 9_000_000)):
        card = {**MACHINE, **CARD, **ALONE, "name": name, "title": name.title()}
        card |= {"disk": DISK} if name == "large" else {}
        card["gpu"] = {**card["gpu"], "memory_bytes": memory, "tflops": {"float32": 1, "bfloat16": 2}}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(card))
    return folder


@pytest.fixture
def plan(world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """``plan(...)``: what the command prints of the small model on the little card, in this process alone."""
    monkeypatch.chdir(world)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})
    monkeypatch.setattr("sim.plan.routing.OTHERS", OTHERS[:1])

    def call(*given: str) -> str:
        usual = {"model": "model.yaml", "hardware": "little.yaml", "context": "64", "policy": "lru,split_prompts"}
        own = {word.partition("=")[0] for word in given}
        capsys.readouterr()
        assert main(["plan", *given, *(f"{key}={it}" for key, it in usual.items() if key not in own)]) == 0
        return capsys.readouterr().out

    return call


@pytest.fixture
def short(plan: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``plan`` on one kind of routing and one seed of it."""
    monkeypatch.setattr("sim.plan.routing.OTHERS", ())
    monkeypatch.setattr("sim.plan.words.SEEDS", 1)
    return plan
