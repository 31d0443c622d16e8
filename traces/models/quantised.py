"""Checkpoints whose weights are stored in fewer bits: dequantised knowingly, or refused; never kept as they are."""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

from traces.kit.errors import UserError, one_of

DEQUANTISED = ("fp8", "mxfp4")
"""What the library dequantises as it reads: fine-grained FP8, and MXFP4 as GPT-OSS has it."""
COMPUTED = (torch.bfloat16, torch.float16, torch.float32)
"""The types in which kernels compute here."""
LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""With which the library reads this machine alone, and runs nothing of what it reads."""
KEYS = ("quantization_config", "compression_config")
AUTO_CONFIG: Any = AutoConfig
AUTO: Any = AutoModelForCausalLM


@dataclass(frozen=True)
class Dequantised:
    """What comes of a quantised checkpoint: a configuration with which the library dequantises it, the type to ask for,
    the types of the parameters, and their bytes."""

    config: Any
    dtype: str
    dtypes: Mapping[str, torch.dtype]
    nbytes: int

    def settle(self, model: Any) -> None:
        """Give the parameters their types: some versions dequantise to bfloat16 whatever is asked for, or leave what
        is stored in full as it is stored."""
        for key, parameter in model.named_parameters():
            if parameter.dtype in COMPUTED and not parameter.is_meta:
                parameter.data = parameter.data.to(self.dtypes.get(key, parameter.dtype))


def method_of(folder: Path) -> str | None:
    """How config.json says that the weights of `folder` are quantised, by the library's name; None: not at all."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None  # as the library will say
    return method_said(quantisation_of(config))


def quantisation_of(config: object) -> Any:
    """What a config.json, or a part of it, says of how the weights are quantised; None: nothing."""
    parts = [config, *config.values()] if isinstance(config, dict) else []
    found = (part.get(key) for part in parts if isinstance(part, dict) for key in KEYS)
    return next((each for each in found if each is not None), None)


def method_said(said: Any) -> str | None:
    """The method that :func:`quantisation_of` names, by the library's name; None: none."""
    if said is None:
        return None
    if not isinstance(said, Mapping):
        return "unknown"
    if said.get("load_in_8bit") or said.get("load_in_4bit"):  # which once had no name
        return "bitsandbytes"
    return str(said.get("quant_method", "unknown"))


def check_stored(name: str, files: Sequence[Path], method: str | None) -> int:
    """How many numbers are stored; UserError where a tensor of 8 bits or fewer has no scale: the library would take its
    numbers as they are.

    `method`: of config.json; without one no scale is read.
    """
    kinds, count = dict[str, str](), 0
    for file in files:
        with safe_open(file, "pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 (it is no mapping)
                part = tensors.get_slice(key)
                kinds[key] = part.get_dtype()
                count += math.prod(part.get_shape())
    alone = sorted(
        key
        for key, kind in kinds.items()
        if kind.startswith(("F8", "F6", "F4")) and not key.endswith(("_scale_inv", ".scale"))
        if method is None or kinds.keys().isdisjoint((f"{key}_scale_inv", f"{key.removesuffix('.weight')}.scale"))
    )
    if alone:
        why = "config.json names no quantisation" if method is None else f"no {alone[0].rpartition('.')[2]}_scale_inv"
        raise UserError(
            f"model={name!r}: {len(alone)} of its tensors are in {kinds[alone[0]]}, such as {alone[0]}, and {why};"
            f" allowed: weights in bfloat16, float16 or float32, or quantised as {one_of(DEQUANTISED)}, with scales"
        )
    return count


def dequantising(name: str, folder: Path, method: str, dtype: str) -> Dequantised:
    """How the weights of `folder` are dequantised, to the type `dtype`; auto: to that of config.json, if it is one to
    compute in. UserError for a method that is not one of DEQUANTISED."""
    if method not in DEQUANTISED:
        raise UserError(
            f"model={name!r} is quantised as {method[:40]!r}; allowed: {one_of(DEQUANTISED)}, which are dequantised, or"
            " weights in bfloat16, float16 or float32"
        )
    config = AUTO_CONFIG.from_pretrained(str(folder), **LOCAL)
    own = getattr(config, "quantization_config", None) or getattr(config.get_text_config(), "quantization_config", None)
    if not isinstance(own, dict):
        raise UserError(f"model={name!r} is quantised as {method!r} in a part that is no language model; allowed: none")
    own["dequantize"] = True
    if dtype == "auto":
        stated = config.dtype if config.dtype in COMPUTED else torch.bfloat16
        dtype = str(stated).removeprefix("torch.")
    with torch.device("meta"):
        model = AUTO.from_config(config, dtype=getattr(torch, dtype))
    nbytes = sum(p.numel() * p.element_size() for p in model.parameters())
    print(f"model={name!r} is quantised as {method}: dequantised to {dtype}, {nbytes / 1e9:.1f} GB", file=sys.stderr)
    return Dequantised(config, dtype, {key: p.dtype for key, p in model.named_parameters()}, nbytes)


def check_computable(name: str, model: Any) -> None:
    """UserError where a parameter is of a type in which no kernel here computes: the library has kept it."""
    kept = {key: p.dtype for key, p in model.named_parameters() if p.dtype not in (*COMPUTED, torch.float64)}
    if kept:
        key = min(kept)
        raise UserError(
            f"model={name!r}: {len(kept)} of its tensors are not dequantised, such as {key} in"
            f" {str(kept[key]).removeprefix('torch.')}; allowed: bfloat16, float16, float32"
        )
