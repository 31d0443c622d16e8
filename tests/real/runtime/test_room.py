"""What the simulator says that a model takes beside its experts is what the runtime holds: tensors, caches, pool."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from real.run.session import serve
from real.runtime.engine import Engine
from real.runtime.generate import Served
from real.runtime.machine import Machine
from real.runtime.models import Where
from real.runtime.offloaded import Offloaded
from real.words import configuration, model_dtype
from sim.experiment.budget import Room, budget_bytes
from sim.experiment.config import RunConfig
from sim.prices import HardwareProfile, ModelProfile, shipped
from tests.real.runtime.rig import CPU
from tests.traces.models.test_profile import priced, settings_of
from tests.traces.models.tiny import tiny

CLOSE = 0.02
"""How far the two may be apart: of tensors, the rotary embeddings' frequencies; of the cache, the last token."""
PROMPT, NEW = 60, 5


def held(tensors: Iterable[Tensor]) -> int:
    """Bytes of memory, whatever shares it counted once."""
    storages = {it.untyped_storage().data_ptr(): it.untyped_storage().nbytes() for it in tensors if it.numel()}
    return sum(storages.values())


def by_part(model: Any) -> dict[str, int]:
    """Of a model without its experts: of its layers, of all else, and of both."""
    named = [*model.named_parameters(), *model.named_buffers()]
    within = [tensor for name, tensor in named if ".layers." in name]
    outside = [tensor for name, tensor in named if ".layers." not in name]
    return {"dense": held(within), "head": held(outside), "all": held([*within, *outside])}


def check(room: Room, parts: dict[str, int], cached: int) -> None:
    assert parts["dense"] == pytest.approx(room.dense_bytes, rel=CLOSE)
    assert parts["head"] == pytest.approx(room.head_bytes, rel=CLOSE)
    assert cached == pytest.approx(room.kv_bytes, rel=CLOSE)
    assert parts["all"] + cached == pytest.approx(room.gpu_bytes - room.bytes, rel=CLOSE)


def room_of(model: Any, tokens: int, batch: int = 1) -> Room:
    hardware = HardwareProfile.from_dict(shipped("hardware", "h100"))
    return Room.of(ModelProfile.from_dict(model), hardware, [tokens] * batch, batch)


def test_the_reference_model(monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured("float32")
    model = Where("cpu").open("tiny-moe", model_dtype(config))
    engines, machines, cached, pools = [], list[Machine](), list[int](), set[int]()

    def noted(*given: Any) -> Engine:
        engines.append(Engine(*given))
        return engines[0]

    def choose(scores: Tensor) -> int:
        layers = (engines[0]._joined or engines[0]._own[0]).layers
        cached.append(held(tensor for layer in layers for tensor in (layer.keys, layer.values)))
        pools.add(held([machines[0].pool.block]))
        return int(scores.argmax())

    monkeypatch.setattr("real.runtime.runner.Engine", noted)
    request = Served(0, list(range(2, PROMPT + 2)), choose, NEW)
    run, _ = serve(config, model, "tiny-moe", [request], None, made=machines.append)
    room = room_of(config.model, PROMPT + NEW)
    check(room, by_part(model.model), cached[-1])
    assert cached == [count * model.kv_bytes_per_token() for count in range(PROMPT, PROMPT + NEW)]
    every = int(config.model["experts"]) * sum(ModelProfile.from_dict(config.model).priced())
    assert model.store.nbytes == every
    budget = budget_bytes("25%", every, room, "x")
    (pool,) = pools
    assert pool == pytest.approx(budget, rel=CLOSE)
    assert 0 < run.core.state.peak <= pool <= budget


# The dense part and the cache of a model that runs in bfloat16 were counted as in float32.
def test_a_dtype_is_the_whole_model_s() -> None:
    whole, half = (room_of(configured(dtype).model, 64) for dtype in ("float32", "bfloat16"))
    for part in ("dense_bytes", "head_bytes", "kv_bytes"):
        assert getattr(whole, part) == 2 * getattr(half, part) > 0
    assert model_dtype(configured("bfloat16")) == configured("bfloat16").model["compute_dtype"] == "bfloat16"
    assert "dense_bytes_per_param" not in configured("bfloat16", "a-checkpoint").model, "priced as traced"


@cache
def configured(dtype: str, model: str = "tiny-moe") -> RunConfig:
    return configuration(["policy=lru", "budget=25%", f"model={model}", f"model.dtype={dtype}"], "")


# Tied embeddings, biases, shared experts, leading dense layers, a latent cache, keys of fewer heads.
@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        ("olmoe tied", "bfloat16"),
        ("gpt_oss", "bfloat16"),
        ("deepseek_v3", "float32"),
        ("qwen3_moe", "float32"),
        ("glm4_moe", "bfloat16"),
    ],
)
def test_other_families(family: str, dtype: str, tmp_path: Path) -> None:
    name, tied = family.split()[0], {"tie_word_embeddings": "tied" in family}
    profile = priced(tmp_path, settings_of(name, torch_dtype=dtype, **tied))
    model = Offloaded(tiny(name, **tied).to(getattr(torch, dtype)), CPU)
    check(room_of(profile, 64, 2), by_part(model.model), 2 * 64 * model.kv_bytes_per_token())
    assert model.store.nbytes == profile["moe_layers"] * profile["experts"] * profile["expert_bytes"][dtype]
