"""Every key and a list of odd values: each is taken, or refused in one short line that names the key."""

import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest

from policies import registry
from policies.api import Setup
from sim.experiment.cell import Inputs, make_cell
from sim.experiment.compose import read_config
from sim.experiment.config import RunConfig
from sim.experiment.overrides import parse, prepare
from sim.experiment.run import run_config
from sim.prices import AS_TRACED, HardwareProfile, ModelProfile, shipped
from sim.prices.costs import Costs
from tests.sim.experiment.nested import paths, put
from tests.sim.saying import refused
from tests.sim.small_trace import MACHINE, SIZE, Plan, config, one_layer
from traces.kit.errors import UserError, one_line

VALUES = (
    *("9999999999999999999999", "-9999999999999999999999", "1e300", "1e400", "-1", "0", "1e-300", "1.5", "-0.0"),
    *("層", "é", "😀", "\n", "\x1b[2J", "", "''", "'", '"', "'a b'", "a b", "a=b", "a:b", "(1)", "~", "!", "%s", "\\"),
    *("[]", "[1,2]", "{}", "{a: 1}", "nan", "inf", "-inf", "null", "true", "no", "0x10", "1_000", "${x", "x" * 60),
)
MOST = 300
KIN = {"model.expert_bytes": "model.dtype=", "hardware.gpu.tflops": "model.compute_dtype="}
"""Keys whose value may be fine, and leave another one without its own."""
INPUTS = Inputs(keep=True)


@cache
def typed(text: str) -> object:
    """What Hydra makes of a value, once it is put into its grammar."""
    return parse(prepare(f"key={text}")).value()


def held(key: str, what: Callable[[object], object], values: Sequence[str] = VALUES) -> list[str]:
    """What is wrong with how each odd value of a key is taken."""
    wrong = []
    for text in values:
        try:
            what(typed(text))
        except UserError as error:
            said = one_line(error)
            named = key.rpartition(".")[2] in said or (key in KIN and KIN[key] in said)
            before = re.split("allowed: |required: ", said)[0]  # a set may be long
            if not named or len(before) >= MOST or not said.isprintable():
                wrong.append(f"{key}={text!r}: {said}")
        except Exception as error:
            wrong.append(f"{key}={text!r}: {type(error).__name__}: {error}")
    return wrong


@cache
def usual() -> RunConfig:
    return read_config(["budget=8GB", "bounds=false", "model=olmoe_1b_7b"])


def with_top(key: str) -> Callable[[object], object]:
    plain = {field.name: getattr(usual(), field.name) for field in fields(RunConfig)}
    group, _, inner = key.partition(".")

    def change(value: object) -> None:
        changed = {**plain[group], inner: value} if inner else value
        make_cell(RunConfig.from_dict({**plain, group: changed}), INPUTS)

    return change


def test_keys_of_a_run() -> None:
    keys = [field.name for field in fields(RunConfig)]
    wrong = [line for key in (*keys, "workload.name", "workload.batch") for line in held(key, with_top(key))]
    assert wrong == []
    given = {field.name: getattr(usual(), field.name) for field in fields(RunConfig)} | {"model": {"name": AS_TRACED}}

    def priced(dtype: object) -> None:
        make_cell(RunConfig.from_dict(given | {"model": {"name": AS_TRACED, "dtype": dtype}}), INPUTS)

    assert held("model.dtype", priced) == []


@pytest.mark.parametrize("group", ["model", "hardware"])
def test_keys_of_a_profile(group: str) -> None:
    profile = shipped(group, "olmoe_1b_7b" if group == "model" else "rtx_4090")
    model = ModelProfile.from_dict(shipped("model", "olmoe_1b_7b"))
    wrong = []
    for path in paths(profile):

        def read(value: object, path: tuple[str, ...] = path) -> None:
            changed = put(profile, path, value)
            if group == "model":
                ModelProfile.from_dict(changed)
            else:
                Costs(model, HardwareProfile.from_dict(changed))

        wrong += held(".".join((group, *path)), read)
    assert wrong == []


def test_parameters_of_policies() -> None:
    """Of each every third value, of the next the others: what reads them is the same for all of a type."""
    cell = make_cell(usual(), INPUTS)
    wrong = []
    names = [name for name in registry.names() if not registry.find(name).clairvoyant]
    for number, (name, key) in enumerate((own, key) for own in names for key in registry.parameters(own)):

        def build(value: object, name: str = name, key: str = key, setup: Setup = cell.setup) -> None:
            registry.build(name, setup, {key: value})

        wrong += held(f"policy.{key}", build, VALUES[number % 3 :: 3])
    assert wrong == []


def test_a_run_that_no_clock_holds(tmp_path: Path) -> None:
    gpu = {**MACHINE["gpu"], "hbm_gb_per_s": 1e-9, "efficiency": {"flops": 1, "hbm": 1e-9}}
    given = config(one_layer(tmp_path / "trace", [Plan((1,), 2)], [0, 1, 0]), SIZE, hardware={**MACHINE, "gpu": gpu})
    with pytest.raises(UserError, match=r"hardware=by_hand: a run takes 1,\d{3} years on it"):
        run_config(given, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("word", ["policy.scope=層", "policy=層", "workload=[1,2]", "hardware={}", "seed=${x}"])
def test_on_the_command_line(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(["curve", *([] if word.startswith("policy=") else ["policy=lru"]), word], capsys)
    assert said.startswith(f"error: {word.partition('=')[0]}")
