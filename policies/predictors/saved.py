"""A fitted predictor as a file: safetensors, which holds numbers and one text of JSON, and no code."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from policies.predictors.fitter import Layer, fitter_of
from traces.format.predicted import INPUTS, fit_facts
from traces.kit.errors import UserError
from traces.kit.fields import Fields
from traces.kit.strict import dump_json, load_json
from traces.kit.whole import whole, write_whole

SCHEMA = 2  # 2: with the hash of the content, which nothing tells apart without
_KEYS = ("schema", "kind", "input", "stride", "top_k", "layers", "experts", "model", "prompts", "fit", "sha256")
_WHERE = "allowed: a file in a folder that can be written"


@dataclass(frozen=True, slots=True)
class Fitted:
    """A predictor of each layer 0..L-stride-1, and how they were made.

    ``about`` holds kind, input, stride, top_k, layers (L), experts (E), model (name, revision), prompts (hashes of
    those it learned from, or null) and fit (what predictor.json is to say). ``timing``: what depends on the machine's
    speed, in a file of its own. ``sha256``: of the file.
    """

    about: Mapping[str, Any]
    layers: tuple[Layer, ...]
    timing: Mapping[str, Any] = field(default_factory=dict)
    sha256: str = ""

    @property
    def name(self) -> str:
        """Under which its policy looks for what it says."""
        about = self.about
        return fitter_of(about["kind"], f"predictor of {about['kind']}").called(about["input"], about["stride"])


def check_target(path: Path) -> None:
    """Refuse a place where no predictor can be written: before hours of fitting rather than after them."""
    _safetensors()
    if path.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise UserError(f"out={path}: {_WHERE}")


def save(fitted: Fitted, path: Path) -> Fitted:
    """Write it to ``path``, whole or not at all; returns it with its hash. The same predictor gives the same bytes."""
    module = _safetensors()
    tensors = {
        f"layers.{i}.{name}": np.ascontiguousarray(getattr(layer, name))
        for i, layer in enumerate(fitted.layers)
        for name in _arrays(type(layer))
    }
    about = {"schema": SCHEMA, **fitted.about}
    text = json.dumps({**about, "sha256": _content(about, tensors)}, sort_keys=True, allow_nan=False)
    raw = module.numpy.save(tensors, {"predictor": text})
    try:
        with whole(path) as part:
            part.write_bytes(raw)
            _timing(path).unlink(missing_ok=True)  # that of another one
        write_whole(_timing(path), dump_json(dict(fitted.timing)))
    except OSError as error:
        raise UserError(f"out={path}: {error.strerror}; {_WHERE}") from None
    return replace(fitted, sha256=hashlib.sha256(raw).hexdigest())


def load(path: Path) -> Fitted:
    """Read what :func:`save` wrote. UserError for anything else; nothing is unpickled."""
    module = _safetensors()
    if not path.is_file():
        raise UserError(f"predictor={path}: no such file; allowed: one that python -m policies fit wrote")
    try:
        with module.safe_open(str(path), framework="numpy") as stream:
            said: Any = load_json((stream.metadata() or {}).get("predictor", "").encode())
            about = _about(said, path)
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - it is no mapping
        if said.pop("sha256") != _content(said, tensors):
            raise ValueError("its SHA-256 is another: the file was changed, or damaged")
        kind = fitter_of(about["kind"], f"predictor={path}: kind={about['kind']}").layer
        layers = tuple(_layer(kind, tensors, i, about["experts"]) for i in range(about["layers"] - about["stride"]))
        if tensors or not layers:
            raise ValueError("tensors of other layers")
        timing = load_json(_timing(path).read_bytes()) if _timing(path).is_file() else {}
    except (module.SafetensorError, ValueError, KeyError, TypeError) as error:
        what = " ".join(str(error).split())[:200]
        raise UserError(
            f"predictor={path}: not a predictor ({what}); allowed: what python -m policies fit wrote"
        ) from None
    return Fitted(about, layers, dict(timing), hashlib.sha256(path.read_bytes()).hexdigest())


def _content(about: Mapping[str, Any], tensors: Mapping[str, Any]) -> str:
    """SHA-256 of what a predictor says of itself, and of its tensors by name: type, shape and bytes."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, allow_nan=False).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {tensor.shape}\n".encode() + tensor.tobytes())
    return digest.hexdigest()


def _timing(path: Path) -> Path:
    return path.with_name(f"{path.name}.timing.json")


def _about(found: object, path: Path) -> dict[str, Any]:
    """The text of a predictor, each entry as it should be; see :class:`Fitted`. ValueError or TraceError."""
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise ValueError(f"not of schema {SCHEMA}; fit it again")
    fields = Fields(f"predictor={path}")
    top = fields.exactly(found, "entries", _KEYS)
    sizes = {key: fields.integer(top[key], key, 1) for key in ("stride", "top_k", "layers", "experts")}
    fields.integer(top["top_k"], "top_k", 1, sizes["experts"])
    fields.integer(top["stride"], "stride", 1, max(1, sizes["layers"] - 1))
    model, prompts = top["model"], top["prompts"]
    if not isinstance(model, list) or len(model) != 2:
        raise ValueError(f"model is {model}, not a name and a revision")
    if not isinstance(prompts, list | None):
        raise ValueError("prompts are no list")
    return {
        "kind": fields.text(top["kind"], "kind"),
        "input": fields.choice(top["input"], "input", INPUTS),
        **sizes,
        "model": [fields.text(model[0], "model"), fields.optional(model[1], "revision", fields.text)],
        "prompts": None if prompts is None else [fields.text(key, "prompts") for key in prompts],
        "fit": fit_facts(fields, top["fit"], "fit"),
    }


def _layer(kind: type[Layer], tensors: dict[str, Any], layer: int, experts: int) -> Layer:
    arrays = {name: tensors.pop(f"layers.{layer}.{name}") for name in _arrays(kind)}
    for name, array in arrays.items():
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise ValueError(f"layers.{layer}.{name} is {array.dtype}, or not finite; float32")
    made = kind(**arrays)
    if made.experts != experts:
        raise ValueError(f"layers.{layer} is of {made.experts} experts; {experts}")
    return made


def _arrays(kind: type) -> list[str]:
    return [array.name for array in fields(kind)]


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError:
        need = "an environment with safetensors: pip install 'moe-offload-workbench[hf]'"
        raise UserError(f"policies: safetensors is not installed; allowed: {need}") from None
    return safetensors
