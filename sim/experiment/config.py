"""A checked configuration of one run. Every mistake is a UserError of one line: the key, the value, what is allowed.

Hydra composes one in :mod:`sim.experiment.compose`; where it is not installed, :func:`load_config` reads one
that was written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml

from sim.core.host_memory import HOST_POLICIES, HOST_TIERS
from sim.experiment import online
from sim.prices.placement import PLACEMENTS
from traces.kit.errors import UserError
from traces.kit.readers import nullable, record, refusal, text, truth, whole

GROUPS = ("policy", "model", "hardware", "workload")
"""Keys that are mappings with a name, each of a file in ``conf/``."""


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise refusal(value, where, "a group of keys")
    return value


def _workload(value: Any, where: str) -> Mapping[str, Any]:
    name = _mapping(value, where).get("name")
    if name == online.NAME:
        online.read_online(value, where)
    else:
        record(_ClosedLoop)(value, where)
    return _mapping(value, where)


def _budget(value: Any, where: str) -> str | int:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise refusal(value, where, "a size, such as 8GB, 8GiB or 50%, or auto")
    return value


def _size(value: Any, where: str) -> str | int:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise refusal(value, where, "a size, such as 32GB, 32GiB or 50%")
    return value


@dataclass(frozen=True, slots=True)
class _ClosedLoop:
    name: Annotated[str, text("closed_loop", online.NAME)]
    batch: Annotated[int, whole(1)]
    prefill_chunk: Annotated[int | None, nullable(whole(1))] = None
    prefill_order: Annotated[str, text("chunk_major", "layer_major")] = "chunk_major"


Group = Annotated[Mapping[str, Any], _mapping]
Truth = Annotated[bool, truth]


@dataclass(frozen=True, slots=True)
class RunConfig:
    """One run, as composed. The groups are checked by those who read them."""

    policy: Group
    model: Group
    hardware: Group
    workload: Annotated[Mapping[str, Any], _workload]
    trace: Annotated[str, text()]
    budget: Annotated[str | int, _budget]
    chunks: Annotated[int, whole(1)]
    warmup: Annotated[int, whole(0)]
    limit: Annotated[int | None, nullable(whole(1))]
    seed: Annotated[int, whole(0)]
    bounds: Truth
    log: Truth
    timeline: Truth
    measure: Annotated[str, text("test", "validation")] = "test"
    """See :func:`sim.workload.passes.select`."""
    placement: Annotated[str, text(*PLACEMENTS)] = "hash"
    """Of experts on several GPUs; on one, all are alike."""
    host_memory: Annotated[str | int | None, nullable(_size)] = None
    """Bytes for experts in the host's memory, above ``hardware.disk``; null: the host holds all."""
    host_policy: Annotated[str, text(*HOST_POLICIES)] = "lru"
    host_tier: Annotated[str, text(*HOST_TIERS)] = "inclusive"
    kv: Annotated[str | int | None, online.kv] = None
    """GPU bytes for the KV cache of ``workload=online``; None: for the longest ``max_num_seqs`` requests."""
    kv_share: Annotated[str | None, nullable(online.share)] = None
    """Of the room for experts and KV cache together, the part for the latter; ``budget`` is then ``auto``."""
    scores: Truth = False
    """See :mod:`sim.experiment.scoring`."""

    @classmethod
    def from_dict(cls, composed: Mapping[str, Any]) -> RunConfig:
        """Check names, types and ranges of the top-level keys. UserError names the first that is wrong."""
        found = record(cls)(composed, "")
        online.check_kv(found.kv, found.workload)
        online.check_share(found.kv_share, found.kv, found.budget, found.workload)
        for key, usual in (("host_policy", "lru"), ("host_tier", "inclusive")):
            if found.host_memory is None and (given := getattr(found, key)) != usual:
                raise UserError(f"{key}={given}: of host_memory=, which is null; allowed here: {usual}")
        return found


def load_config(path: Path) -> RunConfig:
    """A configuration as a run leaves it in ``config.yaml``. UserError if the file is none."""
    found = load_configs(path)
    if len(found) > 1:
        raise UserError(f"config={path}: holds {len(found)} configurations; allowed here: one")
    return found[0]


def load_configs(path: Path) -> list[RunConfig]:
    """The configurations of a grid, a YAML document each, as :func:`dump_configs` writes them. UserError for others."""
    try:
        documents = [found for found in yaml.safe_load_all(path.read_text(encoding="utf-8")) if found is not None]
    except OSError as error:
        raise UserError(f"config={path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"config={path}: not YAML: {' '.join(str(error).split())}") from None
    if not documents or not all(isinstance(found, dict) for found in documents):
        raise UserError(f"config={path}: a mapping of keys is wanted, as in the config.yaml of a run")
    try:
        return [RunConfig.from_dict({str(key): value for key, value in found.items()}) for found in documents]
    except UserError as error:
        raise UserError(f"config={path}: {error}") from None


def dump_configs(configs: Sequence[RunConfig]) -> str:
    """Configurations as YAML, which :func:`load_configs` reads where Hydra is not installed."""
    return yaml.safe_dump_all([asdict(config) for config in configs], sort_keys=False)
