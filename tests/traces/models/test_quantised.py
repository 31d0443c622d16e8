"""Quantised checkpoints: dequantised, with the size that results said, or refused by name; nothing is kept as it is."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.quantizers import quantizer_mxfp4

from real.runtime.host import Host
from real.runtime.models import open_checkpoint
from real.runtime.offloaded import Offloaded
from tests.traces.models.test_load import record
from tests.traces.models.tiny import configured, save_with_tokenizer, tiny
from traces import UserError
from traces.models import load as loading
from traces.models.load import load

BLOCK = 8
FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
"""The numbers of E2M1."""


def fp8(family: str, folder: Path) -> dict[str, Any]:
    """Make `folder` a checkpoint in FP8 with a scale per block, as DeepSeek-V3 is published; what it stands for."""
    save_with_tokenizer(tiny(family).to(torch.bfloat16), folder)
    tensors, meant = load_file(folder / "model.safetensors"), {}
    for key in [key for key in tensors if "_proj.weight" in key]:
        rows, columns = tensors[key].shape
        if rows % BLOCK or columns % BLOCK:
            continue
        blocks = tensors[key].float().reshape(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)
        scale = blocks.abs().amax((1, 3), keepdim=True) / 448
        stored = (blocks / scale).to(torch.float8_e4m3fn)
        tensors[key] = stored.reshape(rows, columns)
        tensors[f"{key}_scale_inv"] = scale.reshape(rows // BLOCK, columns // BLOCK)
        meant[key] = (stored.float() * scale).reshape(rows, columns)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    how = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK]}
    configured(folder, quantization_config=how)
    return {key: tensor for key, tensor in tensors.items() if not key.endswith("scale_inv")} | meant


def mxfp4(folder: Path) -> dict[str, Any]:
    """Make `folder` a GPT-OSS with experts in MXFP4, 32 numbers to a scale, as it is published; what it stands for."""
    save_with_tokenizer(tiny("gpt_oss", intermediate_size=64).to(torch.bfloat16), folder)
    tensors = load_file(folder / "model.safetensors")
    meant = dict(tensors)
    for key in [key for key in tensors if key.endswith(("gate_up_proj", "down_proj"))]:
        n_experts, columns, rows = tensors.pop(key).shape  # [E, in, out]; stored as [E, out, in / 32, 16]
        bytes_ = torch.randint(256, (n_experts, rows, columns // 32, 16), dtype=torch.uint8)
        exponents = torch.randint(120, 130, (n_experts, rows, columns // 32), dtype=torch.uint8)
        tensors |= {f"{key}_blocks": bytes_, f"{key}_scales": exponents}
        numbers = torch.tensor(FP4)[torch.stack([bytes_ & 15, bytes_ >> 4], -1).long()].flatten(-2)
        scaled = numbers * torch.exp2(exponents.float() - 127)[..., None]
        meant[key] = scaled.reshape(n_experts, rows, columns).transpose(1, 2)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    configured(folder, quantization_config={"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]})
    return meant


def plain(family: str, folder: Path, meant: dict[str, Any], **changed: Any) -> Path:
    """The same weights in a checkpoint that is not quantised."""
    save_with_tokenizer(tiny(family, **changed).to(torch.bfloat16), folder)
    stored = {key: tensor.to(torch.bfloat16).contiguous() for key, tensor in meant.items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def assert_same(model: Any, other: Any) -> None:
    mine, its = dict(model.named_parameters()), dict(other.named_parameters())
    assert mine.keys() == its.keys()
    for name, tensor in its.items():
        assert mine[name].dtype == tensor.dtype, name
        assert torch.equal(mine[name], tensor), name


def size_of(model: Any) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


@pytest.mark.parametrize("dtype", ["auto", "float32"])
@pytest.mark.parametrize("method", ["fp8", "mxfp4"])
def test_what_the_library_dequantises_is_what_it_stands_for(
    method: str, dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the card: newer ones would keep it, and no kernel here computes in it."""
    folder = tmp_path / "model"
    if method == "fp8":
        family, changed, meant = "deepseek_v3", {}, fp8("deepseek_v3", folder)
    else:
        family, changed, meant = "gpt_oss", {"intermediate_size": 64}, mxfp4(folder)
    expected = load(str(plain(family, tmp_path / "plain", meant, **changed)), dtype, "cpu").model
    if dtype == "float32":  # dequantised in single precision
        exact = {key: tensor.float().contiguous() for key, tensor in meant.items()}
        save_file(exact, tmp_path / "plain/model.safetensors", metadata={"format": "pt"})
        expected = load(str(tmp_path / "plain"), dtype, "cpu").model
    capsys.readouterr()
    for way in (lambda: load(str(folder), dtype, "cpu"), lambda: open_checkpoint(str(folder), dtype, Host())):
        model = way().model
        spoken = f"{'bfloat16' if dtype == 'auto' else dtype}, {size_of(model) / 1e9:.1f} GB"
        assert capsys.readouterr().err == f"model='{folder}' is quantised as {method}: dequantised to {spoken}\n"
        assert_same(model, expected)
        assert not getattr(model, "is_quantized", False)
        ids = torch.arange(20)[None]
        with torch.inference_mode():
            assert torch.isfinite(model(ids).logits).all()
    Offloaded(model, torch.device("cpu"))


@pytest.mark.parametrize("method", ["fp8", "mxfp4"])
def test_a_card_that_computes_in_it_changes_nothing(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the library would keep it, unless it is told not to."""
    folder = tmp_path / "model"
    fp8("olmoe", folder) if method == "fp8" else mxfp4(folder)
    expected = load(str(folder), "auto", "cpu").model
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_: torch.device("cuda"))
    for asked in ("is_triton_available", "is_kernels_available"):
        monkeypatch.setattr(quantizer_mxfp4, asked, lambda *_: True)
    assert_same(load(str(folder), "auto", "cpu").model, expected)


def test_the_size_that_results_is_what_must_fit(tmp_path: Path) -> None:
    """The files of MXFP4 are a quarter of it."""
    mxfp4(tmp_path / "model")
    stored = (tmp_path / "model/model.safetensors").stat().st_size
    model = load(str(tmp_path / "model"), "auto", "cpu").model
    nbytes = size_of(model)
    assert stored < 0.7 * nbytes
    with pytest.raises(UserError, match="the model's weights take"):
        open_checkpoint(str(tmp_path / "model"), "auto", Host(nbytes - 1))
    open_checkpoint(str(tmp_path / "model"), "auto", Host(nbytes))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "awq"),
    ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
    ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "bitsandbytes"),
    ({"quantization_config": {"load_in_8bit": True}}, "bitsandbytes"),
    ({"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized"}}, "compressed-tensors"),
    ({"compression_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
    ({"quantization_config": {"quant_method": "nvfp4"}}, "nvfp4"),
    ({"quantization_config": {"quant_method": "of_tomorrow"}}, "of_tomorrow"),
    ({"quantization_config": {"bits": 4}}, "unknown"),
    ({"quantization_config": "fp8"}, "unknown"),
    ({"text_config": {"quantization_config": {"quant_method": "awq"}}}, "awq"),
]


@pytest.mark.parametrize(("config", "method"), REFUSED)
def test_any_other_one_is_refused_by_name(config: dict[str, Any], method: str, saved: Path, tmp_path: Path) -> None:
    """From config.json alone: nothing is read, and nothing that is not installed is asked for."""
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    configured(folder, **config)
    for way in (lambda: load(str(folder), "auto", "cpu"), lambda: open_checkpoint(str(folder), "auto", Host())):
        said = rf"^model='{folder}' is quantised as '{method}'; allowed: fp8, mxfp4, which are dequantised, or weights"
        with pytest.raises(UserError, match=said) as caught:
            way()
        assert "\n" not in str(caught.value)


def test_weights_that_the_library_would_keep_are_refused(tmp_path: Path) -> None:
    """FP8 without a word of it in config.json but the type: its numbers lack their scales."""
    fp8("olmoe", tmp_path / "model")
    file = tmp_path / "model/config.json"
    config = {key: value for key, value in json.loads(file.read_text()).items() if key != "quantization_config"}
    for stated in ("float8_e4m3fn", "bfloat16"):
        file.write_text(json.dumps(config | {"dtype": stated}))
        said = r"112 of its tensors are in F8_E4M3, such as model\.layers\S+, and config.json names no quant"
        with pytest.raises(UserError, match=rf"^model='\S+': {said}"):
            load(str(tmp_path / "model"), "auto", "cpu")


@pytest.mark.parametrize(
    "key", ["model.layers.1.self_attn.q_proj.weight", "model.layers.2.mlp.experts.3.up_proj.weight"]
)
def test_a_scale_that_is_missing_is_missed(key: str, tmp_path: Path) -> None:
    """The library would take the numbers without it; other makers of FP8 name their scales otherwise."""
    fp8("olmoe", tmp_path / "model")
    file = tmp_path / "model/model.safetensors"
    tensors = load_file(file)
    tensors[f"{key}_scale"] = tensors.pop(f"{key}_scale_inv")
    save_file(tensors, file, metadata={"format": "pt"})
    said = rf"1 of its tensors are in F8_E4M3, such as {key}, and no weight_scale_inv; allow"
    with pytest.raises(UserError, match=said):
        load(str(tmp_path / "model"), "auto", "cpu")


def test_a_type_that_is_kept_all_the_same_is_refused(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a version of the library that dequantises otherwise than it says."""
    model = tiny("olmoe")
    experts = model.model.layers[1].mlp.experts
    experts.down_proj = torch.nn.Parameter(experts.down_proj.to(torch.float8_e4m3fn), requires_grad=False)
    monkeypatch.setattr(loading, "_model", lambda *_: model)
    which = "such as model.layers.1.mlp.experts.down_proj in float8_e4m3fn; allowed"
    with pytest.raises(UserError, match=f"1 of its tensors are not dequantised, {which}"):
        load(str(saved), "auto", "cpu")


def test_a_trace_of_a_quantised_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fp8("olmoe", tmp_path / "model")
    assert record(tmp_path / "model", "one\n", tmp_path / "t") == 0
    assert "is quantised as fp8: dequantised to bfloat16" in capsys.readouterr().err
    assert json.loads((tmp_path / "t/trace.json").read_text())["model"]["dtype"] == "bfloat16"
