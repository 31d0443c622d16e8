"""Load a model and its tokenizer from this machine alone: nothing is fetched, executed or unpickled."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from traces.collect.options import check_choice
from traces.errors import UserError
from traces.reference import MODEL_DIR

DTYPES = ("auto", "bfloat16", "float16", "float32")
REFERENCE = "reference"


@dataclass(frozen=True)
class Loaded:
    """`name`: as the manifest shows it, never a path; `revision`: a commit, or the reference weights' hash."""

    model: Any
    tokenizer: Any
    name: str
    revision: str | None


def device_of(device: str) -> torch.device:
    """The torch device of `device=`: auto (CUDA if there is one), cpu, cuda or cuda:N; UserError otherwise."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise UserError(f"device={device!r} is not known; allowed: auto, cpu, cuda, cuda:N") from None
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device={device!r}: this machine has {torch.cuda.device_count()} CUDA devices")
    return chosen


def device_name(device: torch.device) -> str:
    """ "cpu", or the GPU's product name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def load(name: str, dtype: str, device: torch.device) -> Loaded:
    """Load `name`: "reference", a folder, or a model of the local Hugging Face cache. UserError if it fails."""
    check_choice("dtype", dtype, DTYPES)
    quiet: Any = logging.disable_progress_bar
    quiet()  # ours are plain lines
    source = str(MODEL_DIR) if name == REFERENCE else name
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **local)
        model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, use_safetensors=True, **local)
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())
        raise UserError(f"model={name!r} cannot be loaded from this machine: {why}") from None
    folder = Path(source)
    revision = weights_digest(folder) if name == REFERENCE else getattr(model.config, "_commit_hash", None)
    shown = name if name == REFERENCE or not folder.is_dir() else folder.resolve().name
    return Loaded(model.to(device).eval(), tokenizer, shown, revision)


def weights_digest(folder: Path) -> str:
    """SHA-256 over the safetensors files of `folder`, in the order of their names."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(file.read_bytes())
    return f"sha256:{digest.hexdigest()}"
