"""The shapes that are measured are those of ``conf/model``, and what is timed computes what the library computes."""

from pathlib import Path

import pytest
import torch

from sim.prices import shipped
from tests.traces.calibrate.tiny_configs import CONFIGS, MIXTRAL, write_config
from traces.calibrate import layers
from traces.calibrate.layers import NO_EXPERTS, Experts, Grids, Layer, expert_forward, layer_call
from traces.calibrate.timing import Budget, Clock
from traces.kit import conf
from traces.kit.errors import UserError
from traces.models.families import cache_key
from traces.models.shapes import PUBLISHED, build, configuration

CPU = torch.device("cpu")


@pytest.fixture(params=["mixtral", "gpt_oss", "deepseek_v2_greedy"])
def tiny_model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_config(tmp_path / f"tiny_{request.param}", CONFIGS[request.param])


DECODERS = {"switch_base_16", "switch_base_128", "switch_large_128"}
"""Priced alone, of models with an encoder, which the library builds whole or not at all."""


@pytest.mark.parametrize("name", sorted({*PUBLISHED, *conf.names("model")} - {"as_traced", *DECODERS}))
def test_a_published_shape_has_the_parameters_of_conf(name: str) -> None:
    block = build(name, torch.device("meta"), "bfloat16")
    profile = shipped("model", name)
    assert block.shape == {key: profile[key] for key in block.shape}
    assert len(block.shape) == 8


def test_a_model_without_experts_is_refused(tmp_path: Path) -> None:
    dense = write_config(tmp_path / "dense", MIXTRAL | {"model_type": "llama"})
    with pytest.raises(UserError, match="no layer of experts"):
        build(str(dense), CPU, "float32")
    wrong = write_config(tmp_path / "wrong", MIXTRAL | {"model_type": "llama", "num_attention_heads": 5})
    with pytest.raises(UserError, match=r"wrong' is not known .*not a multiple"):
        configuration(str(wrong))
    with pytest.raises(UserError, match=r"model='nobody/nothing' is not known .* allowed: tiny-moe, olmoe_1b_7b"):
        configuration("nobody/nothing")


def test_one_expert_is_the_librarys(tiny_model: Path) -> None:
    block = build(str(tiny_model), CPU, "float32")
    for name, parameter in block.experts.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    x = torch.randn(5, block.shape["hidden"])
    block.model.set_experts_implementation("eager")
    for expert in (0, 7):
        ids, weights = torch.full((5, 1), expert), torch.ones(5, 1)
        torch.testing.assert_close(expert_forward(block.experts, expert, x), block.experts(x, ids, weights))


def test_a_layer_can_be_called_again_and_again(tiny_model: Path) -> None:
    block = build(str(tiny_model), CPU, "float32")
    block.model.set_experts_implementation(NO_EXPERTS)
    seen: list[int] = []
    attended = block.layer.self_attn.register_forward_hook(
        lambda module, args, kwargs, out: seen.append(kwargs[cache_key(module)].layers[-1].keys.shape[-2]),
        with_kwargs=True,
    )
    with torch.inference_mode():
        for tokens, context in ((1, 0), (3, 0), (1, 20), (4, 20)):
            call = layer_call(block, CPU, tokens, context)
            seen.clear()
            for i in range(3):
                call(i)
            assert seen == [context + tokens] * 3
    attended.remove()


def test_the_grouped_kernel_gets_k_different_experts(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block, seen = build(str(tiny_model), CPU, "float32"), []
    kernel = layers.grouped_mm_experts_forward

    def watched(module: object, x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        seen.append(ids.tolist())
        return kernel(module, x, ids, weights)

    monkeypatch.setattr(layers, "grouped_mm_experts_forward", watched)
    experts = Experts(block, CPU)
    with torch.inference_mode():
        call = experts.top_k(4)
        for i in range(5):
            assert call(i).shape == (4, block.shape["hidden"])  # type: ignore[attr-defined]
    assert seen == [[[(2 * i) % 8, (2 * i + 1) % 8]] * 4 for i in range(5)]


def test_a_model_is_measured_at_every_point_of_its_grids(tiny_model: Path) -> None:
    grids = Grids(tokens=(1, 2, 4), contexts=(0, 8), cpu_tokens=(1, 4), threads=(1,))
    lines, asked = list[str](), list[float]()

    class Counted(Budget):
        def share(self) -> float:
            asked.append(super().share())
            return asked[-1]

    found = Layer(str(tiny_model), Clock(CPU), "bfloat16", grids).measure(Counted(0, grids.points), lines.append)
    assert len(asked) == grids.points
    assert found["dense"]["tokens"] == [1, 1, 4, 4]
    assert found["dense"]["context"] == [0, 8, 0, 8]
    assert found["expert"]["tokens"] == found["grouped"]["tokens"] == [1, 2, 4]
    assert (found["cpu_expert"]["threads"], found["cpu_expert"]["tokens"]) == ([1, 1], [1, 4])
    assert found["launch_ns"] == found["layer_overhead_ns"] == 0
    assert found["shape"]["experts"] == 8
    pair = found["pair"]
    assert pair["expert_bytes"] >= 2 * found["shape"]["expert_params"]
    assert all(table["threads"] == [1] for key, table in pair.items() if key != "expert_bytes")
    assert len(lines) == 4
