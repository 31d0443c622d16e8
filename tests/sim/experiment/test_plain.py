"""What is composed without Hydra is what Hydra composes, and what is not plain is left to it."""

import json
import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from sim.experiment.by_hydra import compose_words, to_dict
from sim.experiment.compose import composed
from sim.experiment.overrides import parse, value_word
from sim.experiment.plain import GROUPS, PACKAGES, _chosen, _value, composed_plainly
from traces.kit import conf
from traces.kit.errors import UserError

ALL = [[f"{group}={name}"] for group in (*GROUPS, *PACKAGES) for name in sorted(conf.names(group))]
SOME = [
    ["policy=fmoe", "policy.search_us=2.50", "policy.eviction=lru", "hardware=rtx_3090_x2", "placement=layers"],
    ["model=tiny-moe", "model.dtype=fp8", "host=ddr4_4ch", "hardware.host.cpu_threads=8", "trace=/a-b_c.d/1e3"],
    [
        "workload=online",
        "workload.rate=0.5",
        "kv_share=20%",
        "budget=auto",
        "limit=null",
        "bounds=false",
        "seed=[7,8]",
        "hardware.peer=null",
    ],
]
VALUES = (
    "8GB 8GiB 1.5GB 50% 0 7 123456789012345678 0.5 10.25 -1 -0 -0.5 true null auto lru_layer nano [1] [2GB,50%,null]"
)
NOT_PLAIN = (
    "08 1e3 +1 1_0 .5 5. nan INF True NULL [ [] [1,] [[1,2],[a]] {a:1} 'a' a,b ${seed} a=b 8e5 a/b glob(l*) ??? 9"
    + "9" * 20
)
ODD = [
    "policy=nosuch",
    "policy=",
    "policy",
    "policy=lru,fifo",
    "nosuch=1",
    "policy.nosuch=1",
    "hardware.disk.gb_per_s.4096=1",
    "+seed=1",
    "~limit",
    "++policy.scope=layer",
    "experiment=hits_first",
    "hydra.sweep.subdir=a",
    "model=./my.yaml",
    "host=null",
    "trace=a b",
    "trace=[1]",
    "trace=",
]


def by_hydra(words: list[str]) -> str:
    return json.dumps(to_dict(compose_words(words)))


@pytest.mark.parametrize("words", SOME, ids=" ".join)
def test_it_is_what_hydra_composes(words: list[str]) -> None:
    assert json.dumps(composed_plainly(words)) == by_hydra(words), "keys in the same order, too"


def test_a_profiles_file_is_what_hydra_composes(tmp_path: Path) -> None:
    for group, name in {"model": "tiny-moe", "hardware": "a100"}.items():
        text = (conf.FOLDER / group / f"{name}.yaml").read_text(encoding="utf-8")
        (tmp_path / f"{group} a.yaml").write_text(text.replace(f"name: {name}", "name: mine"))
    words = [f"{group}={tmp_path}/{group} a.yaml" for group in ("model", "hardware")]
    found = composed_plainly([*words, "hardware.link.depth=2"])
    assert found is not None
    assert (found["model"]["name"], found["hardware"]["name"]) == ("mine", "mine")
    assert json.dumps(found) == by_hydra([*words, "hardware.link.depth=2"])
    assert composed_plainly([f"hardware={tmp_path}/nosuch.yaml"]) is None
    assert composed_plainly(["hardware=a\0.yaml"]) is None
    assert composed_plainly(["hardware=\ud800.yaml"]) is None
    (tmp_path / "config.yaml").mkdir()
    assert composed_plainly([f"model={tmp_path}/config.yaml"]) is None


def test_what_an_alias_repeats_is_of_each_place_its_own(tmp_path: Path) -> None:
    (tmp_path / "h.yaml").write_text("name: mine\nlink: &same {depth: 1}\npeer: *same\n")
    words = [f"hardware={tmp_path}/h.yaml", "hardware.link.depth=2"]
    assert json.dumps(composed_plainly(words)) == by_hydra(words)


def test_a_day_that_there_is_not_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "h.yaml").write_text("name: 2026-13-02")
    with pytest.raises(UserError, match=r"h\.yaml: not a profile in YAML: month"):
        composed([f"hardware={tmp_path}/h.yaml"])


def test_a_file_of_the_same_name_and_age_is_read_in_its_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "h.yaml").write_text(f"name: {name}\n")
        os.utime(tmp_path / name / "h.yaml", (0, 0))
        monkeypatch.chdir(tmp_path / name)
        found = composed_plainly(["hardware=h.yaml"])
        assert found is not None
        assert found["hardware"]["name"] == name


@pytest.mark.ci
@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_each_file_is_what_hydra_composes(words: list[str]) -> None:
    assert json.dumps(composed_plainly(words)) == by_hydra(words)


def test_each_file_is_plain() -> None:
    for (word,) in ALL:
        group, _, name = word.partition("=")
        found = _chosen(group, name)
        if group == "policy":  # reading others as Hydra does takes long: that is tried above
            assert found == OmegaConf.to_container(OmegaConf.load(conf.FOLDER / group / f"{name}.yaml"))


@pytest.mark.parametrize("value", VALUES.split())
def test_a_plain_value_is_read_as_in_hydras_grammar(value: str) -> None:
    found = _value(value)
    assert (type(found), found) == (type(parse(f"key={value}").value()), parse(f"key={value}").value())


@pytest.mark.parametrize("path", ["a", "1e3", "null", "8GB", "./x", "/a-b.c/d", "-x", ".", "007", "true"])
def test_a_trace_is_a_text_whatever_it_looks_like(path: str) -> None:
    found = composed_plainly([f"trace={path}"])
    assert found is not None
    assert found["trace"] == parse(value_word("trace", path)).value() == path


@pytest.mark.parametrize(
    "words", [[f"budget={value}"] for value in NOT_PLAIN.split()] + [[word] for word in ODD], ids=str
)
def test_what_is_not_plain_is_left_to_hydra(words: list[str]) -> None:
    assert composed_plainly(words) is None


def test_no_key_is_plain_twice() -> None:
    assert composed_plainly(["seed=1", "seed=2"]) is None


@pytest.mark.parametrize(
    "text",
    [
        "a: ${seed}",
        "a: ???",
        "a: 1e-3",
        "a: 2026-12-02",
        "a: 2026-13-02",
        "a: !!timestamp b",
        "a: 1\na: 2",
        "a: {b: 1, b: 2}",
        "a: &b {c: 1}\nd: {<<: *b}",
        "a: &b [*b]",
        "a: {[1]: 2}",
        "",
        "defaults: []",
        "# @package b\na: 1",
        "[1]",
        "a: [",
    ],
)
def test_a_file_that_is_not_plain_is_left_to_hydra(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for group in (*GROUPS, *PACKAGES):
        (tmp_path / group).symlink_to(conf.FOLDER / group)
    (tmp_path / "config.yaml").symlink_to(conf.FOLDER / "config.yaml")
    (tmp_path / "policy").unlink()
    (tmp_path / "policy").mkdir()
    own = tmp_path / "policy/lru.yaml"
    own.write_text("name: lru\nscope: layer\n")
    monkeypatch.setattr(conf, "FOLDER", tmp_path)
    first = composed_plainly([])
    assert first is not None
    assert first["policy"] == {"name": "lru", "scope": "layer"}
    first["policy"]["scope"] = "the caller's own"
    assert composed_plainly([]) != first
    own.write_text(text)  # while a notebook runs, say
    assert composed_plainly([]) is None


@pytest.mark.parametrize("text", ["name: own\n# @package hardware\n", "# @package hardware\n# @package b\nname: own\n"])
def test_a_package_is_said_once_and_at_the_top(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for group in GROUPS:
        (tmp_path / group).symlink_to(conf.FOLDER / group)
    (tmp_path / "config.yaml").symlink_to(conf.FOLDER / "config.yaml")
    (tmp_path / "host").mkdir()
    (tmp_path / "host/own.yaml").write_text(text)
    monkeypatch.setattr(conf, "FOLDER", tmp_path)
    assert composed_plainly(["host=own"]) is None
    (tmp_path / "host/own.yaml").write_text("\n# @package hardware\nname: own\n")
    found = composed_plainly(["host=own"])
    assert found is not None
    assert found["hardware"]["name"] == "own"
