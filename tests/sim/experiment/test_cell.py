"""A cell's key: whatever changes the result changes it, and nothing else does."""

import shutil
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import reduce
from operator import getitem
from pathlib import Path
from types import UnionType
from typing import Any

import numpy as np
import pytest
import yaml

from policies import registry
from sim.cli import main
from sim.experiment.cell import make_cell
from sim.experiment.compose import read_config
from sim.experiment.config import RunConfig
from sim.experiment.provenance import identify
from sim.experiment.run import run_config
from sim.prices import ModelProfile, figures, shipped
from tests.sim.experiment.nested import paths, put
from tests.sim.small_trace import Plan, config, one_layer, write

PLANS = [
    Plan((1,), split="train"),
    Plan((1,), 2, split="train"),
    Plan((2,), 1, split="test"),
    Plan((1,), 1, split="test"),
    Plan((1,), split="test"),
]
EXPERTS = [1, 0, 1, 2, 3, 2, 1, 0, 3, 2]
SHAPE = {"moe_layers": 1, "experts": 4, "top_k": 1}
MODEL: Mapping[str, Any] = dict(shipped("model", "olmoe_1b_7b")) | SHAPE
WITH_DISK: Mapping[str, Any] = shipped("hardware", "rtx_4090")
HARDWARE: Mapping[str, Any] = {
    key: {k: text for k, text in value.items() if k != "disk"} if key == "sources" else value
    for key, value in WITH_DISK.items()
    if key != "disk"
}
"""Without a disk, which is one of a run with ``host_memory`` alone: see test_host_memory."""

BUDGET = 30_000_000
"""Bytes: two experts of 12.6 MB each."""

CHANGES: dict[str, Any] = {
    "policy": {"name": "fifo", "scope": "global"},
    "model": MODEL | {"dtype": "int4"},
    "hardware": HARDWARE | {"software": {"layer_overhead_us": 1}},
    "workload": {"name": "closed_loop", "batch": 2},
    "trace": "other",
    "budget": 2 * BUDGET,
    "chunks": 2,
    "warmup": 1,
    "limit": 1,
    "seed": 1,
    "bounds": True,
    "log": True,
    "timeline": True,
    "measure": "validation",
    "scores": True,
}
"""Another value for every key of a run."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run; beside its trace lies another one, in which the last token chose another expert."""
    folder = tmp_path_factory.mktemp("traces")
    one_layer(folder / "other", PLANS, [*EXPERTS[:-1], 3])
    return config(one_layer(folder / "base", PLANS, EXPERTS), BUDGET, model=MODEL, hardware=HARDWARE)


def changed(base: RunConfig, field: str) -> RunConfig:
    """The run that differs in one key."""
    value = str(Path(base.trace).with_name("other")) if field == "trace" else CHANGES[field]
    return replace(base, **{field: value})


def key(run: RunConfig) -> str:
    return identify(make_cell(run), ()).key


def test_every_key_of_a_run_is_tried() -> None:
    elsewhere = {
        "placement",
        "kv",
        "kv_share",
    }  # of several GPUs, and none of one (see test_gpus); of workload=online alone
    elsewhere |= {"host_memory", "host_policy", "host_tier"}  # of a disk, see test_host_memory
    assert {*CHANGES} | elsewhere == {field.name for field in fields(RunConfig)}


def test_no_two_runs_are_one_cell(base: RunConfig) -> None:
    """Every key of a run changes the cell, and each in a way of its own."""
    keys = {key(base), *(key(changed(base, field)) for field in CHANGES)}
    assert len(keys) == 1 + len(CHANGES)


CHOICES = {
    "provenance": "measured",
    "compute_dtype": "float16",
    "dtype": "int4",
    "expert_bytes_per_layer": {"mixed": [5]},
    "pageable_gb_per_s": 7,
    "dram_gb_per_s": 50,
    "cpu_threads": 4,
    "flops": 0.5,
    "hbm": 0.5,
}


def variations(node: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The path of every value."""
    return [path for path in paths(node) if not isinstance(reduce(getitem, path, node), Mapping)]


def with_another(mapping: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """The mapping with another value at ``path``."""
    old: Any = reduce(getitem, path, mapping)
    if path[-1] in CHOICES and "sources" not in path:
        new = CHOICES[path[-1]]
    else:
        new = f"{old}, too" if isinstance(old, str) else old + 1
    assert new != old
    return put(mapping, path, new)


@pytest.mark.parametrize("path", [p for p in variations(figures(MODEL)) if p[0] not in SHAPE], ids=".".join)
def test_every_key_of_a_model_changes_the_cell(base: RunConfig, path: tuple[str, ...]) -> None:
    assert key(replace(base, model=with_another(MODEL, path))) != key(base)


@pytest.mark.parametrize("name", figures({field.name: field for field in fields(ModelProfile)}))
def test_every_field_of_a_profile_changes_the_cell(base: RunConfig, name: str) -> None:
    """Also the shape, in which a model may not differ from the trace, and what no file gives."""
    cell = make_cell(base)
    assert identify(replace(cell, model=replace(cell.model, **{name: "another"})), ()).key != identify(cell, ()).key


@pytest.mark.parametrize("path", variations(figures(HARDWARE)), ids=".".join)
def test_every_key_of_a_machine_changes_the_cell(base: RunConfig, path: tuple[str, ...]) -> None:
    assert key(replace(base, hardware=with_another(HARDWARE, path))) != key(base)


def other(hint: Any, default: Any) -> Any:
    """Another value of a policy's parameter."""
    if hint is bool:
        return not default
    if hint in (int, float):
        return default + 1
    if hint is str or str in getattr(hint, "__args__", ()):
        return "another"
    if isinstance(hint, UnionType):  # something, or null
        return other(hint.__args__[0], 0) if default is None else None
    return next(choice for choice in hint.__args__ if choice != default)


PARAMETERS = [
    (name, key) for name in registry.names() if not registry.find(name).clairvoyant for key in registry.parameters(name)
]


@pytest.mark.parametrize(("name", "parameter"), PARAMETERS)
def test_every_parameter_of_a_policy_changes_the_cell(base: RunConfig, name: str, parameter: str) -> None:
    given = {"name": name, **registry.defaults(name)}
    value = other(registry.parameters(name)[parameter], given[parameter])
    assert key(replace(base, policy=given | {parameter: value})) != key(replace(base, policy=given))


def test_a_word_of_the_command_line_changes_the_cell(tmp_path: Path) -> None:
    """From the words on: what was composed is what is hashed."""
    ids = np.arange(2 * 16 * 8).reshape(2, 16, 8) % 64
    trace = write(tmp_path / "t", [Plan((1,)), Plan((1,))], ids, n_experts=64, priced_as="olmoe_1b_7b")
    # Without a word it is priced as the trace says, and the sizes of that model are at another dtype.
    single = "policy=gate_ahead model.dtype=fp8 hardware=h100 hardware.link.overhead_us=11 workload.batch=2 chunks=2"
    single += " limit=1 warmup=1 seed=1 budget=2GB bounds=false log=true"
    words = [[], *([word] for word in single.split())]
    words += [["policy=gate_ahead", "policy.distance=2"], ["model=olmoe_1b_7b", "model.dtype=int4"]]
    keys = [identify(make_cell(read_config([f"trace={trace.path}", "budget=1GB", *given])), ()).key for given in words]
    assert len(set(keys)) == len(words)


def test_where_the_trace_lies_and_how_a_budget_is_spelt_change_nothing(base: RunConfig, tmp_path: Path) -> None:
    shutil.copytree(base.trace, tmp_path / "elsewhere")
    for again in (
        {"trace": str(tmp_path / "elsewhere")},
        {"budget": "30MB"},
        {"budget": f"{BUDGET}"},
        {"policy": {"name": "lru", "scope": "global"}},  # its default, spelt out
        {"model": dict(reversed(MODEL.items()))},
        {"model": MODEL | {"dtype": MODEL["dtype"]}},
    ):
        assert key(replace(base, **again)) == key(base), again


def test_out_and_format_change_nothing(base: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(dict(MODEL)))
    words = ["run", f"trace={base.trace}", f"model={tmp_path / 'model.yaml'}", f"budget={BUDGET}", "bounds=false"]
    for out in ("a", "b"):
        for form in ("table", "json"):
            assert main([*words, f"out={tmp_path / out}", f"format={form}"]) == 0
            assert capsys.readouterr().err.splitlines()[-1].startswith("read" if form == "json" else "written")
    folders = [[path.name for path in (tmp_path / out).iterdir()] for out in ("a", "b")]
    assert folders[0] == folders[1]
    assert len(folders[0]) == 1


def test_the_code_changes_the_cell(base: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    before = key(base)
    monkeypatch.setattr("sim.experiment.provenance.code_digest", lambda *given: "another")
    assert key(base) != before


@pytest.mark.parametrize("field", [field for field in CHANGES if field not in ("bounds", "scores")])
def test_bounds_are_shared_by_policies_and_by_nothing_else(base: RunConfig, field: str, tmp_path: Path) -> None:
    for given in (base, changed(base, field)):
        run_config(replace(given, bounds=True), tmp_path)
    assert len(list(tmp_path.glob("bounds-*"))) == (1 if field in ("policy", "log", "timeline") else 2)


def test_a_run_builds_its_policy_once(base: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built, build = list[str](), registry.build
    monkeypatch.setattr(registry, "build", lambda name, *given: built.append(name) or build(name, *given))
    run_config(base, tmp_path)
    assert built == [base.policy["name"]]
