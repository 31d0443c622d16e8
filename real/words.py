"""The words of a command: what the runtime is to do, and the configuration that the simulator would take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from sim.experiment.config import RunConfig, load_config
from traces.kit import conf
from traces.kit.errors import UserError
from traces.kit.vocabulary import Device, Format, HostMemory, Threads
from traces.kit.words import Flag, Others, folder


def _known() -> dict[str, str]:
    """Keys of the configuration of a run, as python -m sim run takes them."""
    return dict.fromkeys((*(field.name for field in fields(RunConfig)), "hydra", "experiment"), "")


Weights = Annotated[Literal["auto", "random"], "auto: the checkpoint's; random: of the shape of model=, without one"]
Checkpoint = Annotated[str, "weights, where model= is a name of conf/model that ships none"]
Out = Annotated[Path, folder, "where results go, a folder for each"]


@dataclass(frozen=True, kw_only=True)
class Configured:
    """The words of a command that runs a configuration on a device."""

    device: Device = "auto"
    exact: Annotated[
        bool,
        "true: experts are computed one by one, and no bit of the output depends on the policy or the budget; false: in"
        " the library's grouped kernel, where a layer's are all there and torch has a fast one (CUDA 9.x and 10.x,"
        " bfloat16); on a GPU it rounds otherwise, and so does the library's own forward",
    ] = True
    threads: Threads = 0
    host_memory: HostMemory = None
    format: Format = "table"
    config: Annotated[
        str,
        Flag("--config"),
        "--config FILE: the resolved configuration instead of its words, where Hydra is not installed (python -m sim"
        " config)",
    ] = ""
    rest: Annotated[tuple[str, ...], Others(_known), ""] = ()


def configuration(rest: Sequence[str], file: str, default_model: str = "reference") -> RunConfig:
    """The configuration: read from ``file``, or composed from the words that are left, which needs Hydra.

    model= names a profile of conf/model, or a checkpoint, which is priced by its own shapes (as_traced).
    """
    if file:
        if rest:
            raise UserError(f"{rest[0]}: not beside config={file}, which holds the whole configuration")
        return load_config(Path(file))
    try:
        from sim.experiment.compose import read_config
    except ImportError as error:
        raise UserError(
            f"Hydra is not installed ({error.name}); allowed: --config FILE, a resolved configuration"
        ) from None
    words = list(rest)
    if not any(word.startswith("model=") for word in words):
        words.append(f"model={default_model}")
    return read_config(["model=as_traced" if is_checkpoint(word) else word for word in words])


def checkpoint(rest: Sequence[str], config: RunConfig) -> str:
    """Which model is to be run: the checkpoint that model= names, or the profile's name."""
    named = [word.partition("=")[2] for word in rest if is_checkpoint(word)]
    return named[0] if named else str(config.model["name"])


def is_checkpoint(word: str) -> bool:
    key, _, value = word.partition("=")
    return key == "model" and value not in conf.names("model") and not value.endswith((".yaml", ".yml"))


def model_dtype(config: RunConfig) -> str:
    """The type of the weights on the device: the profile's. UserError for one in which no kernel here computes."""
    dtype: Any = config.model.get("dtype")
    if dtype is None:
        return "auto"
    if dtype not in ("bfloat16", "float16", "float32"):
        raise UserError(
            f"model.dtype={dtype}: a device computes here in bfloat16, float16 or float32; give one of these"
        )
    return str(dtype)
