"""The words of a command: what the runtime is to do, and the configuration that the simulator would take."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml

from sim.experiment.config import RunConfig, load_config, load_configs
from sim.experiment.served import of_a_device
from sim.experiment.words import ROOTS
from sim.prices import AS_TRACED
from traces.kit import conf
from traces.kit.errors import UserError, check_choice
from traces.kit.telling import in_short
from traces.kit.vocabulary import Device, Format, HostMemory, Threads
from traces.kit.words import Flag, Others

if TYPE_CHECKING:
    from real.runtime.models import Where


Weights = Annotated[Literal["auto", "random"], "auto: the checkpoint's; random: of the shape of model=, without one"]
Checkpoint = Annotated[str, "weights, where model= is a name of conf/model that ships none"]
BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
"""Of a number, by the types in which kernels here compute."""
BESIDE = ("hardware", "trace")
"""What may be given beside a file of configurations: it may lie elsewhere on the machine that reads it."""


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
    rest: Annotated[tuple[str, ...], Others(ROOTS), ""] = ()

    def where(self) -> Where:
        """On what the model is to be run."""
        from real.runtime.models import Where  # and torch, which is not needed for a help page

        return Where(self.device, self.host_memory, self.exact)


def prepare(threads: int) -> None:
    """What is to be done before torch is used: nothing is fetched, threads are set, a GPU's products give the same bits
    each time. UserError without torch."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS: one workspace, whatever the stream
    try:
        import torch
        import transformers  # noqa: F401 - here, so that its absence is told
    except ImportError as error:
        need = "pip install 'moe-offload-workbench[hf]'"
        raise UserError(f"real needs torch and transformers ({error}): {need}") from None
    # cuDNN's attention plans anew for each length of the KV cache, which takes longer than a pass.
    torch.backends.cuda.enable_cudnn_sdp(False)
    if threads:
        torch.set_num_threads(threads)


def configuration(rest: Sequence[str], file: str) -> RunConfig:
    """The configuration: read from ``file``, or composed from the words that are left.

    model= names a profile of conf/model, or a checkpoint, which is priced by its own shapes (as_traced); without it it
    is tiny-moe. UserError for what cannot be, and without Hydra for words that are not plain.
    """
    if file:
        if rest:
            raise UserError(f"{rest[0]}: not beside config={file}, which holds the whole configuration")
        return on_one_device(load_config(Path(file)))
    with _hydra():  # plain words need none
        from sim.experiment.compose import read_config

        found = read_config(_priced(rest, "model="))
    return on_one_device(found)


def read_cells(rest: Sequence[str], file: str) -> list[RunConfig]:
    """One configuration per cell of a grid, likewise; without trace= and model= it is tiny-moe's sample."""
    if file:
        return [on_one_device(_with(config, rest, file), arrivals=True) for config in load_configs(Path(file))]
    with _hydra():
        from sim.experiment.sweep.plan import read_grid
    return [on_one_device(config, arrivals=True) for config in read_grid(_priced(rest, "model=", "trace="))]


def on_one_device(config: RunConfig, *, arrivals: bool = False) -> RunConfig:
    """The configuration as a device has it (:func:`throughout`). UserError for several GPUs and for a disk below host
    memory, which are simulated alone, as is what a policy foretells; and for requests that arrive, unless the command
    has ``arrivals``."""
    for key, value, allowed, more in (
        ("hardware.gpus", config.hardware.get("gpus", 1), 1, "several are"),
        ("host_memory", "null" if config.host_memory is None else config.host_memory, "null", "experts on a disk are"),
        ("scores", str(config.scores).lower(), "false", "what a policy foretells is"),
    ):
        if value != allowed:
            raise UserError(f"{key}={value}: allowed: {allowed} on a device; {more} simulated only")
    return throughout(of_a_device(config, arrivals=arrivals))


@contextmanager
def _hydra() -> Iterator[None]:
    """UserError where the block wants Hydra, and it is not installed."""
    try:
        yield
    except ImportError as error:
        raise UserError(
            f"Hydra is not installed ({error.name}); allowed: --config FILE, a resolved configuration"
        ) from None


def _priced(rest: Sequence[str], *unless: str) -> list[str]:
    """The words as the simulator takes them; tiny-moe's ``unless`` there are words that begin so."""
    words = list(rest) if any(word.startswith(unless) for word in rest) else [*rest, "model=tiny-moe"]
    return [f"model={AS_TRACED}" if is_checkpoint(word) else word for word in words]


def checkpoint(rest: Sequence[str], config: RunConfig) -> str:
    """Which model is to be run: the checkpoint that model= names, or the profile's name."""
    named = [word.partition("=")[2] for word in rest if is_checkpoint(word)]
    return named[0] if named else str(config.model["name"])


def is_checkpoint(word: str) -> bool:
    key, _, value = word.partition("=")
    return key == "model" and value not in conf.names("model") and not value.endswith((".yaml", ".yml", ".json"))


def model_dtype(config: RunConfig) -> str:
    """The type of the weights on the device: the profile's. UserError for one in which no kernel here computes."""
    dtype: Any = config.model.get("dtype")
    if dtype is None:
        return "auto"
    check_choice("model.dtype", str(dtype), tuple(BYTES))
    return str(dtype)


def throughout(config: RunConfig) -> RunConfig:
    """The configuration with a model that has its dtype throughout, as it has on a device: the simulator takes
    model.dtype= as the experts' alone. So the rest of it is priced, and given room, in what it is."""
    model, dtype = config.model, str(config.model.get("dtype"))
    was, cached = (model.get(key) for key in ("dense_bytes_per_param", "kv_bytes_per_token"))
    if dtype not in BYTES or type(was) is not int or type(cached) is not int or was in (0, BYTES[dtype]):
        return config  # also as_traced, which has neither; what is no number is told of by whoever reads the model
    own = {
        "compute_dtype": dtype,
        "dense_bytes_per_param": BYTES[dtype],
        "kv_bytes_per_token": cached * BYTES[dtype] // was,
    }
    return replace(config, model={**model, **own})


def one_run(
    policy: str,
    budget: str,
    model: Mapping[str, Any],
    hardware: Mapping[str, Any],
    trace: str,
    *,
    batch: int = 1,
    **more: Any,
) -> RunConfig:
    """The configuration of one run that is made here, as a command without further words would give it.

    ``more``: other keys, ``workload`` instead of a closed loop among them.
    """
    plain = {"chunks": 1, "warmup": 0, "limit": None, "seed": 0, "bounds": False, "log": False, "timeline": False}
    groups = {
        "policy": {"name": policy},
        "model": dict(model),
        "hardware": dict(hardware),
        "workload": {"name": "closed_loop", "batch": batch},
    }
    return RunConfig.from_dict(plain | groups | {"trace": trace, "budget": budget} | more)


def read_profile(path: Path) -> dict[str, Any]:
    """The mapping in a hardware profile's file. UserError if there is none."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"hardware={path}: {error.strerror}; allowed: a profile's file") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"hardware={path}: not a profile in YAML: {in_short(error)}") from None
    if not isinstance(found, Mapping):
        raise UserError(f"hardware={path}: a mapping of hardware keys is wanted")
    return {str(key): value for key, value in found.items()}


def _with(config: RunConfig, words: Sequence[str], file: str) -> RunConfig:
    changes: dict[str, Any] = {}
    for word in words:
        key, _, value = word.partition("=")
        if key not in BESIDE or not value:
            allowed = "hardware=FILE.yaml and trace=DIR alone"
            raise UserError(
                f"{word}: not beside --config {file}, which holds the whole configuration; allowed: {allowed}"
            )
        changes[key] = read_profile(Path(value)) if key == "hardware" else value
    return replace(config, **changes)
