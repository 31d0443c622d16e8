"""Load a model and its tokenizer from this machine alone: nothing is fetched, executed or unpickled."""

import hashlib
import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoTokenizer
from transformers.utils import logging

from traces.kit.conf import MODEL_DIR
from traces.kit.errors import UserError, meant, shown
from traces.kit.telling import in_short
from traces.models.devices import SPREAD, choose, limits
from traces.models.families import REFUSED, family_of
from traces.models.quantised import AUTO, AUTO_CONFIG, LOCAL, check_computable, check_stored, dequantising, method_of
from traces.version import __version__

TINY_MOE = "tiny-moe"


@dataclass(frozen=True)
class Loaded:
    """`name`: as the manifest shows it, never a path; `revision`: a commit, or the hash of tiny-moe's weights.

    `files`: size in bytes and time of change in ns of every file of weights, by name, to tell one model from another.
    """

    model: Any
    tokenizer: Any
    name: str
    revision: str | None
    files: Mapping[str, tuple[int, int]]


def load(
    name: str,
    dtype: str,
    device: str = "auto",
    max_memory: str = "",
    within: Callable[[int], AbstractContextManager[object]] = nullcontext,
) -> Loaded:
    """Load `name`: "tiny-moe", a folder, or a model of the local Hugging Face cache. UserError if it fails.

    `device`: cpu, cuda, cuda:N; or spread: over the GPUs, then host memory, then disk, by accelerate's device map,
    within `max_memory` if that is given; auto: the first of these that holds the weights.
    `within`: a block within which the weights are read, of so many bytes. Quantised ones are dequantised, or refused.
    """
    allowed = limits(max_memory)
    folder = weights_folder(name)
    try:
        files = sorted(folder.glob("*.safetensors"))
        facts = {file.name: (file.stat().st_size, file.stat().st_mtime_ns) for file in files}
        count = check_stored(name, files, method := method_of(folder))
        how: dict[str, Any] = {"dtype": dtype}
        full = None if method is None else dequantising(name, folder, method, dtype)
        if full is not None:
            how, nbytes = {"dtype": full.dtype, "config": full.config}, full.nbytes
        elif dtype == "auto":
            nbytes = sum(size for size, _ in facts.values())
        else:
            nbytes = count * getattr(torch, dtype).itemsize
        check_type(name, AUTO_CONFIG.from_pretrained(str(folder), **LOCAL))
        where = choose(device, nbytes, limited=bool(allowed))
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **LOCAL)
        if not tokenizer("a", add_special_tokens=False)["input_ids"]:  # what the library makes of no tokenizer's files
            raise UserError(f"model={name!r} has no tokenizer; allowed: a folder that holds one, as tokenizer.json")
        with within(nbytes):
            model = _model(name, folder, where, how, allowed)
        if full is not None:
            full.settle(model)
        check_computable(name, model)
    except UserError:
        raise
    except torch.cuda.OutOfMemoryError:
        raise UserError(f"model={name!r} does not fit into {where}; allowed: device=spread, device=cpu") from None
    except Exception as error:  # files can be wrong in every way, and the library takes them as they come
        raise _not_here(name, error) from None
    own = folder == Path(name)
    # The cache names a snapshot's folder after its commit.
    revision = weights_digest(folder) if name == TINY_MOE else None if own else folder.name
    return Loaded(model, tokenizer, folder.resolve().name if own else name, revision, facts)


def check_type(name: str, config: Any) -> None:
    """UserError for a model that is no decoder alone, or whose routing no trace can hold; no weights are read."""
    kind = f"model={name!r} is of type {config.model_type!r}"
    loaded: Any = MODEL_FOR_CAUSAL_LM_MAPPING
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"{kind}, an encoder with a decoder; allowed: a decoder alone")
    if type(config) not in loaded:
        raise UserError(f"{kind}, of which the library has no language model for text alone; allowed: one that it has")
    if (family := family_of(config)) in REFUSED:
        raise UserError(f"{kind}, which cannot be recorded: {REFUSED[family]}")


def _model(name: str, folder: Path, where: str, how: Mapping[str, Any], allowed: Mapping[int | str, str]) -> Any:
    """Load the model, all of it: the library would draw at random what its files lack, and only warn."""
    how = {"use_safetensors": True, **how, **LOCAL}
    how |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # judged below
    said: Any = logging
    verbosity = said.get_verbosity()
    said.set_verbosity_error()
    said.disable_progress_bar()  # ours are plain lines
    try:
        model, found = _spread(folder, how, allowed) if where == SPREAD else AUTO.from_pretrained(str(folder), **how)
    except RuntimeError as error:
        if "above report" not in str(error):
            raise
        raise UserError(f"model={name!r}: its files and its config.json disagree in a tensor's shape") from error
    finally:
        said.set_verbosity(verbosity)
    wrong = [f"{key} is missing" for key in sorted(found["missing_keys"])]
    wrong += [f"{key} is {list(has)}, not {list(needs)}" for key, has, needs in sorted(found["mismatched_keys"])]
    if wrong:
        count = f"{len(wrong)} tensors, such as" if len(wrong) > 1 else "a tensor:"
        raise UserError(f"model={name!r}: its files and its config.json disagree in {count} {wrong[0]}")
    if unused := sorted(found["unexpected_keys"]):
        print(f"not used: {len(unused)} tensors of the model's files, such as {unused[0]}", file=sys.stderr)
    return (model if where == SPREAD else model.to(torch.device(where))).eval()


def _spread(folder: Path, how: Mapping[str, Any], allowed: Mapping[int | str, str]) -> tuple[Any, dict[str, Any]]:
    # Layers that fit into no memory are read from here at every pass.
    spill = tempfile.mkdtemp(prefix="moe-offload-")
    try:
        how = {"device_map": "auto", "max_memory": allowed or None, "offload_folder": spill, **how}
        model, found = AUTO.from_pretrained(str(folder), **how)
    except BaseException:
        shutil.rmtree(spill, ignore_errors=True)
        raise
    weakref.finalize(model, shutil.rmtree, spill, ignore_errors=True)
    return model, found


def weights_folder(name: str) -> Path:
    """Where the files of model `name` lie; UserError if they are not on this machine."""
    if name == TINY_MOE:
        return MODEL_DIR
    folder = Path(name)
    if not (name and folder.is_dir()):
        try:
            folder = Path(snapshot_download(name, local_files_only=True))
        except LocalEntryNotFoundError:
            # The library's own line advises to download, which is not done here.
            raise UserError(
                f"model={name!r} cannot be loaded from this machine: no such folder, and not in the local Hugging Face "
                f"cache; allowed: {TINY_MOE}, a folder, or a name in that cache{meant(name, [TINY_MOE])}"
            ) from None
        except (HFValidationError, OSError) as error:
            raise _not_here(name, error) from None
    for file in ("config.json", "*.safetensors"):
        if not any(folder.glob(file)):
            raise UserError(
                f"model={name!r} has no {file}; allowed: a folder that holds one (pickled weights are not read)"
            )
    return folder


def _not_here(name: str, error: Exception) -> UserError:
    return UserError(f"model={name!r} cannot be loaded from this machine: {in_short(error, kind=True)}")


def weights_digest(folder: Path) -> str:
    """SHA-256 over the safetensors files of `folder`, in the order of their names."""
    content = b"".join(file.read_bytes() for file in sorted(folder.glob("*.safetensors")))
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def end_tokens(loaded: Loaded) -> set[int]:
    """The tokens that end a text: the generation config's, and the tokenizer's. UserError for what is no token."""
    ends = loaded.model.generation_config.eos_token_id
    found = {loaded.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}
    if bad := [token for token in found if not isinstance(token, int)]:
        raise UserError(
            f"eos_token_id={shown(bad[0])} in generation_config.json; allowed: a token's number, or several"
        )
    return found


def recorder_version() -> str:
    """Our version and those of the two libraries that decide what is computed."""
    return f"{__version__} (transformers {transformers.__version__}, torch {torch.__version__})"
