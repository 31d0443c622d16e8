"""The keys of workload=online: what each may be, and what does not go together, each in one line."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml

from sim.experiment.compose import read_config
from sim.experiment.online import read_online
from tests.sim.experiment.test_odd_values import held
from traces.kit import conf
from traces.kit.errors import UserError

SHIPPED: dict[str, Any] = yaml.safe_load((conf.FOLDER / "workload" / "online.yaml").read_text())


def test_the_shipped_file_has_every_key_and_a_comment_for_each() -> None:
    lines = (conf.FOLDER / "workload" / "online.yaml").read_text().splitlines()[2:]
    assert [line.partition(":")[0] for line in lines] == list(SHIPPED)[1:]
    assert all(" # " in line for line in lines)
    found = read_online(SHIPPED | {"rate": 2})
    assert {key: getattr(found, key) for key in SHIPPED} == SHIPPED | {"rate": 2}


def test_plan_and_limits_are_what_was_typed() -> None:
    given = {"arrivals": "gamma", "rate": 0.1, "burstiness": 0.5, "count": 9, "slo": "ttft<=2s", "max_num_seqs": 4}
    found = read_online(SHIPPED | given)
    plan = found.plan(3)
    assert (plan.kind, plan.rate, plan.burstiness, plan.count, plan.seed) == ("gamma", Fraction(1, 10), 0.5, 9, 3)
    assert found.slo == {"ttft": 2 * 10**9}
    assert found.limits(None, 0).kv_blocks is None
    limits = found.limits("1MB", 100)
    assert (limits.max_num_seqs, limits.kv_blocks) == (4, 10**6 // 1600)
    azure = read_online(SHIPPED | {"arrivals": "azure", "path": "a.csv"}).plan(0)
    assert (azure.path, azure.rate) == (Path("a.csv"), None)
    with pytest.raises(UserError, match=r"^kv=1KB: less than a block of 16 tokens; allowed: at least 1600 bytes"):
        found.limits("1KB", 100)
    with pytest.raises(UserError, match=r"^kv=1KB: how much a token takes in this model's KV cache is unknown"):
        found.limits("1KB", 0)


LOG = {"arrivals": "azure", "path": "a.csv"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "workload.rate=null: allowed: requests per second, for arrivals=poisson"),
        ({"rate": 0}, "workload.rate=0: allowed: a finite number above 0"),
        ({"rate": -1}, "workload.rate=-1: allowed: a finite number above 0"),
        ({"arrivals": "azure"}, "workload.path=null: allowed: the file of a log, for arrivals=azure"),
        ({"rate": 1, "path": "a.csv"}, "workload.path=a.csv: allowed: null, as arrivals=poisson reads no file"),
        ({"rate": 1, "scale": 2}, "workload.scale=2: allowed: 1, as arrivals=poisson has a rate"),
        (LOG | {"rate": 0.5, "scale": 2}, "workload.scale=2: allowed: 1, as rate=0.5 is given"),
        ({"rate": 1, "burstiness": 2}, "workload.burstiness=2: allowed: 1, or arrivals=gamma"),
        ({"rate": 1, "arrivals": "gamma", "burstiness": 0.001}, "workload.burstiness=0.001: allowed: 0.01 to 10000"),
        (
            {"rate": 1, "assign": "nearest_length"},
            "workload.assign=nearest_length: allowed: in_order, as only azure, moo",
        ),
        (
            {"rate": 1, "lengths": "cut"},
            "workload.lengths=cut: allowed: as_recorded, as only azure, mooncake, burstgpt",
        ),
        ({"rate": 1, "priority_classes": 2}, "workload.priority_classes=2: allowed: 1, or discipline=priority"),
        (
            {"rate": 1, "max_num_seqs": 4096},
            "workload.max_num_batched_tokens=2048: allowed: at least max_num_seqs=4096",
        ),
        (
            {"rate": 1, "discipline": "lifo"},
            "workload.discipline='lifo': allowed: decode_first_round_robin, fcfs, prefi",
        ),
        ({"rate": 1, "slo": "ttft<2s"}, "workload.slo='ttft<2s': not understood; allowed: "),
        ({"rate": 1, "batch": 2}, "workload.batch=2: no such key; allowed: name, arrivals"),
    ],
)
def test_what_does_not_go_together_is_one_line(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        read_online(SHIPPED | given)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_odd_values_of_every_key() -> None:
    wrong = []
    for key in SHIPPED:

        def read(value: object, key: str = key) -> None:
            read_online(SHIPPED | {"rate": 1} | {key: value})

        wrong += held(f"workload.{key}", read)
    assert wrong == []


def test_from_the_command_line() -> None:
    words = ["workload=online", "workload.rate=2", "workload.slo=ttft<=2s,tpot<=100ms", "kv=4GB"]
    config = read_config(words)
    assert (config.kv, config.workload["slo"]) == ("4GB", "ttft<=2s,tpot<=100ms")
    with pytest.raises(UserError, match=r"^kv=4GB: of workload=online; allowed here: null$"):
        read_config(["kv=4GB"])
    with pytest.raises(UserError, match=r"^workload\.name='on': allowed: closed_loop, online$"):
        read_config(["workload.name=on"])
