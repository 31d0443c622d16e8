"""Hosts of conf/host in the place of a machine's own: what they change, where it is from, and how it is told."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from sim.experiment.again import Again
from sim.experiment.compose import read_config
from sim.experiment.run import run
from sim.prices import HardwareProfile, figures
from sim.results.document import read_document
from sim.results.titles import with_changes
from traces.kit import conf

HOSTS = sorted(conf.names("host"))
WORDS = ["policy=lru", "budget=1GB", "hardware=rtx_3090"]
NOMINAL = {"ddr4": 25.6, "ddr5": 44.8}
"""GB/s of a channel at most: DDR4-3200, DDR5-5600."""


def bandwidth(name: str) -> float:
    return float(read_config([*WORDS, f"host={name}"]).hardware["host"]["dram_gb_per_s"])


@pytest.mark.parametrize("name", HOSTS)
def test_a_host_changes_its_memory_and_cpu_and_says_where_they_are_from(name: str) -> None:
    usual, own = read_config(WORDS).hardware, read_config([*WORDS, f"host={name}"]).hardware
    assert {key for key in usual if usual[key] != own[key]} <= {"host", "sources"}
    for group, keys in (("host", {"dram_gb_per_s", "cpu_threads", "cpu_tflops"}), ("sources", {"cpu_tflops"})):
        changed = {key for key in usual[group] if usual[group][key] != own[group][key]}
        assert changed <= keys | {"dram_gb_per_s"}, group
        assert own[group].keys() == usual[group].keys()
    machine = HardwareProfile.from_dict(own)
    told = yaml.safe_load((conf.FOLDER / "host" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert {key: getattr(machine.sources, key) for key in told["sources"]} == told["sources"]
    assert told["host"].keys() - {"cpu_threads"} == told["sources"].keys()


def test_more_channels_give_more_and_none_more_than_it_has() -> None:
    for kind, each in NOMINAL.items():
        by_channels = {
            int(found[1]): bandwidth(name) for name in HOSTS if (found := re.fullmatch(rf"{kind}_(\d+)ch", name))
        }
        assert len(by_channels) >= 3
        rates = [by_channels[channels] for channels in sorted(by_channels)]
        assert rates == sorted(set(rates))
        assert all(rate < each * channels for channels, rate in by_channels.items())


def test_a_run_says_its_figures_and_its_command_gives_it_again(tmp_path: Path) -> None:
    found = run(*WORDS, "host=ddr5_8ch", "limit=1", "bounds=false", out=tmp_path)
    document = read_document(found.folder / "result.json")  # as it is kept
    assert with_changes(document, "hardware") == "rtx_3090 (host.cpu_tflops=9, host.dram_gb_per_s=220)"
    words = shlex.split(Again(tmp_path).command(found.folder.name, "simulated"))
    assert words[:4] == ["python", "-m", "sim", "run"]
    assert figures(read_config(words[4:]).hardware) == figures(read_config([*WORDS, "host=ddr5_8ch"]).hardware)
