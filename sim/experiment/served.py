"""A cell whose requests arrive (``workload=online``): its arrivals, its KV cache, and the bounds of its own passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sim.experiment.budget import Room
from sim.experiment.config import RunConfig
from sim.experiment.online import NAME, read_online, share_of
from sim.prices import HardwareProfile, ModelProfile
from sim.workload.online import registry
from sim.workload.online.arrivals import Traffic, traffic
from sim.workload.online.feed import Serving
from sim.workload.online.rows import Rows
from sim.workload.online.schedule import Limits
from sim.workload.passes import Selection
from traces import PREFILL, Trace
from traces.kit.errors import UserError
from traces.kit.units import counted, format_bytes, parse_bytes


def arriving(config: RunConfig, trace: Trace, chosen: Selection) -> Traffic | None:
    """What arrives; None in a closed loop. UserError where the trace cannot be served so."""
    if config.workload["name"] != NAME:
        return None
    return traffic(read_online(config.workload).plan(config.seed), trace, chosen.measured, config.trace)


def closed(config: RunConfig, what: str) -> None:
    """UserError for a configuration of requests that arrive, where ``what`` is of a closed loop."""
    if config.workload["name"] == NAME:
        raise UserError(f"workload={NAME}: {what} is of a closed loop; allowed: workload=closed_loop")


def of_a_device(config: RunConfig, *, arrivals: bool = False) -> RunConfig:
    """The configuration, for a device. UserError for what no device does; for arrivals, unless the command has them."""
    if not arrivals and config.workload["name"] == NAME:
        raise UserError(f"workload={NAME}: is for python -m real validate, on a device; allowed: workload=closed_loop")
    for key, plain in (("prefill_chunk", None), ("prefill_order", "chunk_major")):
        if (value := config.workload.get(key, plain)) != plain:
            allowed = "null" if plain is None else plain
            raise UserError(f"workload.{key}={value}: a device computes a prompt as it is; allowed: {allowed}")
    return config


def token_bytes(model: ModelProfile) -> int:
    """What one token takes in the KV cache, of all layers."""
    return (model.moe_layers + model.leading_dense_layers.count) * model.kv_bytes_per_token


def split(config: RunConfig, model: ModelProfile, hardware: HardwareProfile) -> RunConfig:
    """The configuration with ``kv`` in the place of ``kv_share``. UserError for a share of less than a block."""
    if config.kv_share is None:
        return config
    room = Room.of(model, hardware, (), 1)
    nbytes = int(share_of(config.kv_share) * max(0, room.gpu_bytes - room.dense_bytes - room.head_bytes))
    found = replace(config, kv=nbytes, kv_share=None)
    try:
        limits_of(found, model)
    except UserError as error:
        raise UserError(f"kv_share={config.kv_share}: {str(error).partition(': ')[2]}") from None
    return found


def limits_of(config: RunConfig, model: ModelProfile) -> Limits:
    """The scheduler's. UserError for a KV cache of less than a block."""
    return read_online(config.workload).limits(config.kv, token_bytes(model))


def room_of(
    config: RunConfig, model: ModelProfile, hardware: HardwareProfile, arrives: Traffic, kv_share: str | None = None
) -> Room:
    """What is left for experts beside the KV cache of ``kv=``, or of the longest requests that can meet. UserError
    for a request that does not fit. ``kv_share``: what said how large that is, if something did."""
    limits = limits_of(config, model)
    longest = max(arrives.arrivals, key=lambda arrival: arrival.tokens)
    if limits.kv_blocks is not None and (needs := limits.blocks(longest.tokens)) > limits.kv_blocks:
        said, nbytes = f"kv={config.kv}" if kv_share is None else f"kv_share={kv_share}", needs * limits.block_size
        nbytes *= token_bytes(model)
        raise UserError(
            f"{said}: has {counted(limits.kv_blocks, 'block')} of {limits.block_size} tokens, and the longest request"
            f" ({longest.prompt_tokens} prompt and {longest.output_tokens} output tokens) needs {needs}; allowed: at"
            f" least {nbytes} bytes ({format_bytes(nbytes)})"
        )
    arrives.check(limits)
    tokens = (arrival.prompt_tokens + arrival.output_tokens for arrival in arrives.arrivals)
    room = Room.of(model, hardware, tokens, limits.max_num_seqs)
    if config.kv is None:
        return room
    nbytes, most = parse_bytes(config.kv, "kv"), room.gpu_bytes - room.dense_bytes - room.head_bytes
    if nbytes >= most:
        beside = f"{format_bytes(max(0, most))} are there beside the model's other weights, on {hardware.name}"
        raise UserError(f"kv={config.kv}: {beside}, and experts want some of these; allowed: less than that")
    return Room(room.gpu_bytes, room.dense_bytes, room.head_bytes, nbytes, limits.max_num_seqs, _held(limits))


def _held(limits: Limits) -> int:
    return (limits.kv_blocks or 0) * limits.block_size


def serving_of(config: RunConfig, model: ModelProfile, trace: Trace, arrives: Traffic, *, keep: bool) -> Serving:
    """Arrivals, and a scheduler that has seen nobody; ``keep``: its batches."""
    scheduler = registry.build(read_online(config.workload).discipline, limits_of(config, model))
    return Serving(arrives, scheduler, Rows(trace), keep=keep)


def _whole(trace: Trace, requests: Sequence[int], chunk: int | None) -> bool:
    """Whether each prompt is computed in one pass."""
    for request in requests:
        steps = trace.steps[trace.steps_of(request)]
        rows = steps["rows"][steps["phase"] == PREFILL]
        if (len(rows) > 1) if chunk is None else (rows.sum() > chunk):
            return False
    return True


def _by_layer(workload: Mapping[str, Any]) -> bool:
    """Whether prompts are taken whole that would be cut else."""
    chunked = workload["enable_chunked_prefill"] or workload["long_prefill_token_threshold"]
    return bool(chunked) and workload.get("prefill_order") == "layer_major"


def resolved(config: RunConfig, arrives: Traffic | None, trace: Trace, requests: Sequence[int]) -> dict[str, Any]:
    """What a result has of its workload, by value: of a log what arrives, and not where it lies; of prompts that are
    one pass each no order of passes. ``requests``: all that are served."""
    workload = dict(config.workload)
    if arrives is None:
        if workload.get("prefill_order") == "layer_major" and _whole(trace, requests, workload.get("prefill_chunk")):
            workload["prefill_order"] = "chunk_major"
        return {"workload": workload}
    workload |= {"path": None, "arrivals_sha256": arrives.sha256}
    if not _by_layer(workload):
        workload.pop("prefill_order", None)
    return {"workload": workload, "kv_bytes": None if config.kv is None else parse_bytes(config.kv, "kv")}
