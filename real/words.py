"""The words of a command: what the runtime is to do, and the configuration that the simulator would take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from traces.kit.options import parse_options

from sim.experiment.config import RunConfig, load_config
from traces.kit import conf
from traces.kit.errors import UserError, allowing
from traces.kit.units import parse_bytes

T = TypeVar("T")


def divide(words: Sequence[str], options: type[T]) -> tuple[T, list[str]]:
    """Those words that are keys of ``options``, read, and the rest. ``--config FILE`` is config=FILE."""
    plain = list(words)
    if "--config" in plain:
        at = plain.index("--config")
        if at + 1 == len(plain):
            raise UserError("--config: a file is wanted, as python -m sim config writes it")
        plain[at : at + 2] = [f"config={plain[at + 1]}"]
    keys = [field.name for field in fields(options)]  # type: ignore[arg-type]
    own = [word for word in plain if word.partition("=")[0] in keys]
    found = parse_options(options, own)
    every = list(dict.fromkeys([*keys, *(field.name for field in fields(RunConfig))]))
    for word in (word for word in plain if word not in own):
        key, equals, _ = word.lstrip("+~").partition("=")
        root = key.partition(".")[0].partition("/")[0]
        if equals and root not in {*every, "hydra", "experiment"}:
            raise UserError(f"{word}: no such key; {allowing(root, every)}")
    return found, [word for word in plain if word not in own]


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


def host_bytes(value: str) -> int | None:
    """What ``host_memory=`` says that the machine has for the model, in bytes; None without it. UserError."""
    return parse_bytes(value, "host_memory") if value else None


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
