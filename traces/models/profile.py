"""From a hub-style config.json to what ``conf/model`` says of a model: its sizes, in parameters and in bytes."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traces.kit.errors import UserError, one_of, shown

if TYPE_CHECKING:
    from traces.models.parts import Layer, Parts, Shape

CONFIG = "config.json"
_DTYPES = {"bfloat16": 2, "float16": 2, "float32": 4}
"""In which weights are published, if not quantised, and computed: bytes of a number."""
_UNSTATED = "bfloat16"
_GROUP = 128
"""Inputs that share a scale in int4; as many outputs as well in FP8, unless config.json says otherwise."""


def profile_of(path: str | Path) -> dict[str, Any]:
    """The model of a config.json, or of the folder that holds one, by the keys of ``conf/model``.

    Parameters are those of the model that transformers builds, without its weights. UserError for what is no model,
    cannot be priced, or wants a library that is not here.
    """
    file = Path(path)
    file = file / CONFIG if file.is_dir() else file
    settings = _read(path, file)
    try:
        from traces.models.parts import parts_of
        from traces.models.quantised import method_said, quantisation_of
    except ImportError:
        need = "pip install 'moe-offload-workbench[hf]'"
        raise UserError(f"model={path}: what a config.json describes is built with transformers: {need}") from None
    said = quantisation_of(settings) or settings.get("quantization")  # as MLX has it
    how = {**settings, **(said if isinstance(said, dict) else {})}
    try:
        stated = _dtype(settings)
        parts = parts_of(str(path), settings)
        dtype, sizes = _expert_bytes(parts.shape, stated or _UNSTATED, method_said(said), how)
        kind = str(settings["model_type"])
        return {"name": _name(file), **_sized(kind, parts, stated, dtype, sizes)}
    except UserError as error:
        raise error if str(error).startswith("model=") else UserError(f"model={path}: {error}") from None


def _read(path: str | Path, file: Path) -> dict[str, Any]:
    try:
        settings = json.loads(file.read_text(encoding="utf-8"), object_hook=_special)
    except FileNotFoundError:
        why = f"holds no {CONFIG}" if Path(path).is_dir() else "no such file"
        raise UserError(f"model={path}: {why}; allowed: a model's {CONFIG}, or a folder that holds one") from None
    except OSError as error:
        raise UserError(f"model={path}: {error.strerror}") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"model={path}: not JSON: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict):
        raise UserError(f"model={path}: holds {shown(settings)}; allowed: what a model's {CONFIG} holds, a mapping")
    return settings


def _special(found: dict[str, Any]) -> Any:
    """Infinity and the like, as transformers writes them."""
    return float(found["__float__"]) if found.keys() == {"__float__"} else found


def _name(file: Path) -> str:
    """What the model is called: its folder, or the file if that has a name of its own."""
    file = file.absolute()
    if file.name != CONFIG:
        return file.stem
    if file.parent.parent.name == "snapshots":  # of the Hugging Face cache: models--ORGANISATION--NAME
        return file.parents[2].name.rpartition("--")[2]
    return file.parent.name or "model"


def _dtype(settings: Mapping[str, Any]) -> str | None:
    """The type of the weights, or of those that are not quantised; None where nothing is said."""
    parts = [part for part in (settings, settings.get("text_config")) if isinstance(part, dict)]
    found = (part.get(key) for part in parts for key in ("dtype", "torch_dtype"))
    said = next((each for each in found if each is not None), None)
    if said is not None and (not isinstance(said, str) or said not in _DTYPES):
        raise UserError(f"dtype={shown(said)}; allowed: {one_of(_DTYPES)}")
    return said


def _expert_bytes(
    shape: "Shape", stored: str, method: str | None, settings: Mapping[str, Any]
) -> tuple[str, dict[str, int]]:
    """As which type experts are published, and the bytes of one by type; `stored`: of what is not quantised."""
    sizes = {stored: shape.params * _DTYPES[stored]}
    if method is not None:
        kept = settings.get("modules_to_not_convert")
        kept = kept if isinstance(kept, list) else []
        if method not in ("fp8", "mxfp4"):
            more = f"or no quantization_config, which prices it in {stored}"
            raise UserError(f"quant_method={shown(method)}: its bytes are not known; allowed: fp8, mxfp4, {more}")
        if any("experts" in str(name) and "shared_expert" not in str(name) for name in kept):
            raise UserError(f"modules_to_not_convert={shown(kept)}: keeps experts as they are; allowed: all quantised")
        if (settings.get("expert_dtype") or method) != method:
            raise UserError(f"expert_dtype={shown(settings['expert_dtype'])}; allowed: {method}, as the rest")
    if method == "mxfp4":  # 4 bits, and a byte per 32 inputs
        return method, sizes | {method: _packed(shape, lambda out, given: out * (-(-given // 2) + -(-given // 32)))}
    if stored == "float32" and method is None:
        return stored, sizes | {"bfloat16": 2 * shape.params}
    rows, columns = _block(settings.get("weight_block_size", [_GROUP, _GROUP]))
    # 8 bits, and 4 bytes per block; 4 bits, and scale and zero point per group of inputs, 2.5 bytes.
    sizes["fp8"] = _packed(shape, lambda out, given: out * given + 4 * -(-out // rows) * -(-given // columns))
    sizes["int4"] = _packed(shape, lambda out, given: -(-(out * (given + 5 * -(-given // _GROUP))) // 2))
    return method or stored, sizes


def _packed(shape: "Shape", nbytes: Callable[[int, int], int]) -> int:
    """Bytes of an expert whose matrices take `nbytes(outputs, inputs)`; its biases are left at 16 bits."""
    return sum(nbytes(*matrix) for matrix in shape.matrices) + 2 * shape.biases


def _block(stated: Any) -> tuple[int, int]:
    if not isinstance(stated, list) or len(stated) != 2 or not all(isinstance(n, int) and n > 0 for n in stated):
        raise UserError(f"weight_block_size={shown(stated)}; allowed: outputs and inputs, such as [128, 128]")
    return stated[0], stated[1]


def _sized(kind: str, parts: "Parts", stated: str | None, dtype: str, sizes: Mapping[str, int]) -> dict[str, Any]:
    """All keys but the name. `kind`: the model type of the whole; `stated`: the type of what is not quantised."""
    if parts.beside or parts.embeddings != parts.vocab * parts.hidden:
        which = one_of(parts.beside) or f"{parts.embeddings} parameters"
        allowed = f"those of its input, vocab_size x hidden_size = {parts.vocab * parts.hidden}"
        raise UserError(f"model_type={parts.model_type}: other embeddings ({which}); allowed: {allowed}")
    lead, moe = _folded(parts)
    compute, shape, folded = stated or _UNSTATED, parts.shape, len(parts.layers) - len(lead) - len(moe)
    text = "" if kind == parts.model_type else f", of which {parts.model_type} alone"
    notes = {
        f"{CONFIG} of {kind}{text}; {parts.params:,} parameters in all": True,
        f"no dtype stated: {compute}": stated is None,
        f"what is no expert in {compute}": dtype == "fp8",
        f"{folded} dense layers counted with the layers of experts that follow them": folded,
        "layers differ: their mean": len({*moe}) > 1 or len({*lead}) > 1,
        f"{one_of(parts.as_if_full)} as if full": parts.as_if_full,
    }
    return {
        "source": "; ".join(note for note, holds in notes.items() if holds),
        "moe_layers": len(moe),
        "experts": shape.experts,
        "top_k": shape.top_k,
        "hidden": parts.hidden,
        "expert_width": shape.width,
        "expert_params": shape.params,
        "dtype": dtype,
        "compute_dtype": compute,
        "expert_bytes": dict(sizes),
        "expert_bytes_per_layer": None,
        "attention_params": _mean(layer.attention for layer in moe),
        "attention_width": _mean(layer.width for layer in (*lead, *moe)),
        "kv_bytes_per_token": _mean(layer.kv * _DTYPES[compute] for layer in (*lead, *moe)),
        "router_params": _mean(layer.router for layer in moe),
        "shared_expert_params": _mean(layer.shared for layer in moe),
        "leading_dense_layers": {"count": len(lead), "params_per_layer": _mean(layer.params for layer in lead)},
        "vocab": parts.vocab,
        "head_params": parts.head,
        "dense_bytes_per_param": _DTYPES[compute],
        **({"tied_embeddings": True} if parts.tied else {}),
    }


def _folded(parts: "Parts") -> tuple[list["Layer"], list["Layer"]]:
    """The dense layers that lead, and those with experts; of dense ones between, as many before each are part of it."""
    from traces.models.parts import Layer

    places = [index for index, layer in enumerate(parts.layers) if layer.experts]
    steps = {after - before for before, after in pairwise(places)} or {1}
    step, lead = min(steps), places[0] + 1 - min(steps)
    if len(steps) > 1 or lead < 0 or places[-1] + 1 < len(parts.layers):
        pattern = "".join("E" if layer.experts else "d" for layer in parts.layers)
        raise UserError(
            f"model_type={parts.model_type}: dense layers (d) among those of experts (E), {shown(pattern)}; allowed:"
            " dense layers that lead, or as many before each layer of experts"
        )
    groups = (parts.layers[start : start + step] for start in range(lead, len(parts.layers), step))
    together = [Layer(*map(sum, zip(*map(astuple, group), strict=True))) for group in groups]
    return [*parts.layers[:lead]], together


def _mean(amounts: Iterable[int]) -> int:
    """Of all layers, rounded up: exact where they are alike."""
    found = [*amounts]
    return -(-sum(found) // len(found)) if found else 0
