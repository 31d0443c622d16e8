"""The columns of ``sim.load``: one row per run, from ``result.json``. ``docs/results.md`` prints this table."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from sim.core.accounts import CLASSES, FATES, PHASES, STALLS
from sim.results import titles
from sim.results.classes import output_of
from sim.results.column import DTYPES, SPREAD, Column
from sim.results.label import label
from sim.results.predictions import OF_PREDICTIONS, SCORES
from sim.results.serving.columns import SHA, of_serving
from sim.results.serving.lines import kv_share

FRAME_SCHEMA = 1
"""Version of the columns. A column may be added under the same number; one that goes or changes raises it."""

NEEDED = ("policy", "lossless", "budget_bytes", "seed", "trace")
"""Columns that no result leaves null."""
RATES = ("recall", "resident", "complete", "bytes")
SHARES = ("kept_gate_mass", "substituted", "skipped", "low_precision", "stale")
REFERENCE_ROWS = ("infinite", "belady_forced", "perfect_next_layer", "oracle_ahead")
LATENCY_NAMES = {"ttft": "TTFT", "tpot": "TPOT", "request": "request time"}
LATENCIES = tuple(LATENCY_NAMES)


def _columns() -> Iterator[Column]:
    text, whole, number, truth = DTYPES
    yield Column("folder", text, "", "the run's folder, below the path that was loaded")
    yield Column("also_in", text, "JSON", "other folders of this run, which differ in what is kept beside it at most")
    yield Column("source", text, "", "simulated, or device: measured by real/")
    yield Column("cell", text, "", "the run's address: hash of configuration and code", "provenance.cell")
    yield Column("decision_digest", text, "", "hash of every decision the policy took", "provenance.decision_digest")
    yield Column("code", text, "", "hash of the code the result depends on", "provenance.code")
    yield Column("policy", text, "", "name", "config.policy.name")
    yield Column("policy_label", text, "", "name, with the parameters that are not at their defaults")
    yield Column("policy_params", text, "JSON", "all parameters")
    yield Column("lossless", truth, "", "false: never ranked with lossless rows by latency", "provenance.lossless")
    yield Column("output", text, "", "lossless, lossy or modified (of a modified model): ranked within it alone")
    yield Column("budget_bytes", whole, "B", "GPU memory for experts, all included", "config.budget_bytes")
    yield Column("seed", whole, "", "order of requests and arrivals; 0: as recorded", "config.seed")
    yield Column("workload", text, "", "name", "config.workload.name")
    yield Column("batch", whole, "requests", "active at a time", "config.workload.batch")
    yield Column("served", text, "JSON", "settings of the workload but its name and batch, where it is more than these")
    yield Column("memorised", truth, "", "it remembers requests, and some arrived again: not compared with others")
    yield Column("chunks", whole, "", "copy calls per expert", "config.chunks")
    yield Column("warmup", whole, "requests", "replayed first and not measured", "config.warmup")
    yield Column("limit", whole, "requests", "only the first so many are measured", "config.limit")
    yield Column("measure", text, "", "test, or validation: a part of the train requests, to tune with")
    yield Column("measured_requests", text, "", "which, in words", "provenance.measured_requests")
    yield Column("trace", text, "SHA-256", "the trace", "config.trace")
    yield Column("recording", text, "", "recorded or synthetic", "provenance.trace.recording")
    yield Column("modelled", text, "", "what nobody recorded: routing, signals and predictors that its policy reads")
    yield Column("decoding", text, "", "how it was recorded", "provenance.trace.decoding.mode")
    yield Column("routing_from", text, "", "the model whose routing it is", "provenance.routing_from")
    yield Column("model", text, "", "the model it is priced as, with what was changed")
    yield Column("model_title", text, "", "what people call it, with what was changed")
    yield Column("model_sha", text, "SHA-256/64", "the whole profile")
    yield Column("dtype", text, "", "of the experts", "config.dtype")
    yield Column("hardware", text, "", "the machine, with what was changed")
    yield Column("hardware_title", text, "", "what people call it, with what was changed")
    yield Column("hardware_sha", text, "SHA-256/64", "the whole profile")
    yield Column("figures", text, "", "published or measured figures of it", "provenance.hardware.provenance")
    yield Column("gpus", whole, "GPUs", "so many of them, with a link each")
    yield Column("placement", text, "", "of experts on several GPUs", "config.placement")
    held = "for experts in host memory, above a disk; null: all"
    yield Column("host_memory_bytes", whole, "B", held, "config.host_memory_bytes")
    yield Column("host_policy", text, "", "who stays there", "config.host_policy")
    yield Column("host_tier", text, "", "inclusive or exclusive", "config.host_tier")
    yield Column("page_cache_bytes", whole, "B", "of the page cache below it; null: none", "config.page_cache_bytes")
    for who, what in {"page_cache": "out of the page cache", "disk": "from the drive beside it"}.items():
        name = f"{who}_bytes_per_token"
        yield Column(name, number, "B", f"read {what}, per generated token", f"host_memory.{name}")
    yield Column("compute", text, "", "how compute is priced", "provenance.compute")
    yield Column("predictors", text, "JSON", "SHA-256 of the fitted predictors, by name")
    yield Column("device", text, "", "where a device's run was measured", "provenance.device.name")
    yield Column("device_date", text, "", "and when", "provenance.device.date")
    for name, what in zip(LATENCIES, ("to the first token", "per later token", "of whole requests"), strict=True):
        for part in SPREAD:
            meaning = f"latency {what}, {part} over requests"
            yield Column(f"{name}_ms_{part}", number, "ms", meaning, f"latency_ms.{name}.{part}")
    yield Column("throughput_tokens_per_s", number, "tokens/s", "generated", "throughput_tokens_per_s")
    yield from of_serving()
    for phase in ("", *CLASSES):
        for rate in RATES:
            name = "_".join(part for part in ("hit", phase, rate) if part)
            path = ".".join(part for part in ("hit_rate", phase, rate) if part)
            what = "prompts' and decode rows' common" if phase == "shared" else phase or "all"
            yield Column(name, number, "share", f"hit rate `{rate}` over {what} lookups", path)
    yield Column("compute_ms_per_token", number, "ms/token", "of generated tokens", "compute_ms_per_token")
    for stall in STALLS:
        name, words = f"stall_{stall}_ms_per_token", stall.replace("_", " ")
        yield Column(name, number, "ms/token", f"compute waited: {words}", f"stall_ms_per_token.{stall}")
    yield Column("stall_ms_per_token", number, "ms/token", "their sum")
    for fate in ("demand", *FATES):
        meaning = "copied on demand" if fate == "demand" else f"prefetched: {fate.replace('_', ' ')}"
        yield Column(f"bytes_{fate}_per_token", number, "B/token", meaning, f"bytes_per_token.{fate}")
    yield Column("bytes_per_token", number, "B/token", "their sum")
    yield Column("prefetch_issued", whole, "loads", "prefetches", "prefetch.issued")
    for fate in FATES:
        yield Column(f"prefetch_{fate}", whole, "loads", f"of these {fate.replace('_', ' ')}", f"prefetch.{fate}")
    for phase in PHASES:
        for share in OF_PREDICTIONS:
            name, words = f"predicted_{phase}_{share}", share.replace("_", " ")
            yield Column(name, number, "share", f"{words} of predictions", f"prefetch.predictions.{phase}.{share}")
    for phase, (score, unit, what) in product(PHASES, SCORES):
        yield Column(f"score_{phase}_{score}", number, unit, f"{what} of {phase} events", f"scores.{phase}.{score}")
    busy = "of the time the link was busy, or on average its lanes"
    yield Column("link_utilisation", number, "share", busy, "link_utilisation")
    yield Column("gpu_utilisation", number, "share", "of the time the GPU computed, software included")
    yield Column("peak_bytes", whole, "B", "most of the budget in use at any instant", "memory.peak_bytes")
    yield Column("policy_bytes", whole, "B", "of it the policy's own", "memory.policy_bytes")
    for name in ("requests", "generated_tokens", "prefill_tokens", "lookups"):
        yield Column(name, whole, name.rpartition("_")[2], "measured", f"totals.{name}")
    yield Column("host_lookups", whole, "lookups", "of these computed on the host")
    yield Column("host_ms_per_token", number, "ms/token", "of its workers, of generated tokens; outside compute")
    yield Column("peer_ms_per_token", number, "ms/token", "activations between GPUs, of generated tokens")
    uneven = "of several GPUs, the largest over the mean"
    yield Column("imbalance_misses", number, "x", f"misses {uneven}", "gpus.imbalance.misses")
    yield Column("imbalance_expert_time", number, "x", f"expert time {uneven}", "gpus.imbalance.expert_time")
    yield Column("host_loads", whole, "loads", "from host memory, above a disk", "totals.host_memory.lookups")
    yield Column("host_hit", number, "share", "of these, whole there", "host_memory.hit_rate")
    for which in ("demand", "speculative"):
        name, path = f"disk_{which}_bytes_per_token", f"host_memory.{which}_bytes_per_token"
        yield Column(name, number, "B/token", f"read from the disk, {which}", path)
    yield Column("disk_utilisation", number, "share", "of the time the disk was busy", "host_memory.disk_utilisation")
    low = "in a precision below the model's own, where experts have several"
    yield Column("low_lookups", whole, "lookups", low, "versions.lower.lookups")
    yield Column("low_hit_complete", number, "share", f"hit rate `complete` {low}", "versions.lower.hit_rate.complete")
    yield Column("low_loads", whole, "loads", f"begun {low}", "versions.lower.loads")
    yield Column("bytes_low_per_token", number, "B/token", f"copied {low}; within bytes_per_token")
    yield Column("wall_ns", whole, "ns", "the measured window", "totals.wall_ns")
    least = "belady_bypass: no lossless policy copies fewer"
    yield Column("bound_bytes", number, "B", least, "bounds.belady_bypass.bytes")
    yield Column("bound_bytes_gap", number, "x", "bytes copied / that bound", "bounds.belady_bypass.gap")
    yield Column("bound_time_ms", number, "ms", "time_lower_bound of the window", "bounds.time_lower_bound.wall_ms")
    yield Column("bound_ms_per_token", number, "ms/token", "the same", "bounds.time_lower_bound.ms_per_token")
    yield Column("bound_time_gap", number, "x", "wall time / that bound", "bounds.time_lower_bound.gap")
    own = [(f"{it}_ms_mean", "ms", f": {it}", f"latency_ms.{it}.mean") for it in LATENCIES]
    per = (("throughput_tokens_per_s", "tokens/s"), ("stall_ms_per_token", "ms/token"), ("bytes_per_token", "B/token"))
    own += [(name, unit, "", name) for name, unit in per]
    own += [("hit_complete", "share", "", "hit_rate.complete")]
    for row_, (name, unit, which, path) in product(REFERENCE_ROWS, own):
        yield Column(f"{row_}_{name}", number, unit, f"reference row {row_}{which}", f"reference.{row_}.{path}")
    for share in SHARES:
        meaning = f"lossy only, first-order: {share.replace('_', ' ')}"
        yield Column(f"quality_{share}", number, "share", meaning, f"quality.{share}")
    yield Column("nulls", text, "JSON", "why what is null is null, by its path in result.json")


COLUMNS = tuple(_columns())
"""In the order of the frame. After them come ``GROUP.KEY`` for every setting of a policy, model, machine or workload
in which two rows of the same name differ."""

_PATHS = tuple((column.name, tuple(column.path.split("."))) for column in COLUMNS if column.path)


def row(result: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """One row: the content of a ``result.json``, flat. KeyError, TypeError, AttributeError, ValueError if none."""
    made = {name: _at(result, path) for name, path in _PATHS}
    config, policy = result["config"], result["config"]["policy"]
    made["folder"], made["also_in"] = folder, "[]"
    made["measure"], made["served"] = config.get("measure", "test"), _served(config["workload"])
    made["memorised"] = "memorised" in result["provenance"]
    made["source"] = "device" if "device" in result["provenance"] else "simulated"
    made["policy_label"] = label(policy)
    made["output"] = output_of(result)
    made["policy_params"] = _json({key: value for key, value in policy.items() if key != "name"})
    made["predictors"] = _json(config["predictors"])
    made["modelled"] = titles.modelled(result["provenance"].get("modelled", {}))
    made["nulls"] = _json(result["nulls"])
    totals = result["totals"]
    made["gpus"] = config["hardware"].get("gpus", 1)
    made["host_lookups"] = totals.get("host_lookups", 0)
    made |= dict.fromkeys(("host_ms_per_token", "peer_ms_per_token", "bytes_low_per_token"))
    lower = result.get("versions", {}).get("lower")
    if tokens := totals["generated_tokens"]:
        made["bytes_low_per_token"] = None if lower is None else lower["copied_bytes"] / tokens
        made["host_ms_per_token"] = totals.get("host_ns", 0) / 1e6 / tokens
        made["peer_ms_per_token"] = totals.get("peer_ns", 0) / 1e6 / tokens
    made["kv_share"] = kv_share(result)
    made["gpu_utilisation"] = totals["compute_ns"] / totals["wall_ns"] if totals["wall_ns"] else None
    for group in ("model", "hardware"):
        made[group] = titles.with_changes(result, group)
        made[f"{group}_title"] = titles.profile(result, group)
        made[f"{group}_sha"] = hashlib.sha256(_json(config[group]).encode()).hexdigest()[:16]
    if made["stall_disk_read_ms_per_token"] is None and made["compute_ms_per_token"] is not None:
        made["stall_disk_read_ms_per_token"] = 0.0  # a run without a disk does not name it
    made["stall_ms_per_token"] = _sum(result["stall_ms_per_token"])
    made["bytes_per_token"] = _sum(result["bytes_per_token"])
    return made


def _served(workload: Mapping[str, Any]) -> str | None:
    plain = {"prefill_chunk": None, "prefill_order": "chunk_major"}
    more = {key: value for key, value in workload.items() if key not in ("name", "batch", "rate", "slo", SHA)}
    more = {key: value for key, value in more.items() if key not in plain or value != plain[key]}
    return _json(more) if more else None


def leaves(group: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """The settings of a group, dotted; lists as JSON."""
    for key, value in group.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}.{key}")
        elif key not in ("name", "source"):
            yield f"{prefix}.{key}", _json(value) if isinstance(value, list) else value


def schema_table() -> str:
    """The columns as a Markdown table."""
    lines = ["| column | kind | unit | meaning |", "|---|---|---|---|"]
    lines += [f"| `{c.name}` | {c.kind} | {c.unit} | {c.meaning} |" for c in COLUMNS]
    return "\n".join(lines) + "\n"


def _at(node: Any, path: tuple[str, ...]) -> Any:
    """What lies at a path; None where there is nothing. TypeError where something else is in its place."""
    for part in path:
        if node is None:
            return None
        if not isinstance(node, Mapping):
            raise TypeError(f"{'.'.join(path)}: {node!r}")
        node = node.get(part)
    return node


def _sum(parts: Mapping[str, float | None]) -> float | None:
    known = [part for part in parts.values() if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False)
