"""Load a model and its tokenizer from this machine alone: nothing is fetched, executed or unpickled."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from traces.collect.devices import SPREAD, choose, limits, weights_bytes
from traces.collect.options import check_choice
from traces.errors import UserError
from traces.reference import MODEL_DIR

DTYPES = ("auto", "bfloat16", "float16", "float32")
REFERENCE = "reference"


@dataclass(frozen=True)
class Loaded:
    """`name`: as the manifest shows it, never a path; `revision`: a commit, or the reference weights' hash.

    `files`: size in bytes and time of change in ns of every file of weights, by name, to tell one model from another.
    """

    model: Any
    tokenizer: Any
    name: str
    revision: str | None
    files: Mapping[str, tuple[int, int]]


def load(name: str, dtype: str, device: str = "auto", max_memory: str = "") -> Loaded:
    """Load `name`: "reference", a folder, or a model of the local Hugging Face cache. UserError if it fails.

    `device`: cpu, cuda, cuda:N; or spread: over the GPUs, then host memory, then disk, by accelerate's device map,
    within `max_memory` if that is given; auto: the first of these that holds the weights.
    """
    check_choice("dtype", dtype, DTYPES)
    allowed = limits(max_memory)
    quiet: Any = logging.disable_progress_bar
    quiet()  # ours are plain lines
    folder = weights_folder(name)
    files = sorted(folder.glob("*.safetensors"))
    where = choose(device, weights_bytes(files, dtype), limited=bool(allowed))
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    how: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, **local}
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **local)
        model: Any
        if where == SPREAD:
            model = _spread(folder, how, allowed)
        else:
            model = AutoModelForCausalLM.from_pretrained(str(folder), **how)
            model = model.to(torch.device(where))
    except torch.cuda.OutOfMemoryError:
        raise UserError(f"model={name!r} does not fit into {where}; allowed: device=spread, device=cpu") from None
    except (OSError, ValueError, ImportError) as error:
        raise _not_here(name, error) from None
    own = Path(name).is_dir()
    shown = folder.resolve().name if own and name != REFERENCE else name
    # The cache names a snapshot's folder after its commit.
    revision = weights_digest(folder) if name == REFERENCE else None if own else folder.name
    facts = {file.name: (file.stat().st_size, file.stat().st_mtime_ns) for file in files}
    return Loaded(model.eval(), tokenizer, shown, revision, facts)


def _spread(folder: Path, how: Mapping[str, Any], allowed: Mapping[int | str, str]) -> Any:
    # Layers that fit into no memory are read from here at every pass.
    spill = tempfile.mkdtemp(prefix="moe-offload-")
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            str(folder), device_map="auto", max_memory=allowed or None, offload_folder=spill, **how
        )
    except BaseException:
        shutil.rmtree(spill, ignore_errors=True)
        raise
    weakref.finalize(model, shutil.rmtree, spill, ignore_errors=True)
    return model


def weights_folder(name: str) -> Path:
    """Where the files of model `name` lie; UserError if they are not on this machine."""
    if name == REFERENCE:
        return MODEL_DIR
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError) as error:
        raise _not_here(name, error) from None


def _not_here(name: str, error: Exception) -> UserError:
    return UserError(f"model={name!r} cannot be loaded from this machine: {' '.join(str(error).split())}")


def weights_digest(folder: Path) -> str:
    """SHA-256 over the safetensors files of `folder`, in the order of their names."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(file.read_bytes())
    return f"sha256:{digest.hexdigest()}"
