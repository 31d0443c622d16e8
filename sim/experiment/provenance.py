"""What a result depends on, the address on disk that it has because of it, and where each of its figures is from."""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from policies import registry
from policies.api import Policy, Predictor
from sim.experiment import host_memory, served
from sim.experiment.cell import Cell
from sim.experiment.code import code_digest as code_digest
from sim.experiment.code import code_of as code_of
from sim.prices import figures, own_title
from sim.prices.chosen import changed, charging
from sim.prices.hardware import policy_time
from sim.prices.host import HostPrices
from sim.prices.versions import in_versions
from sim.results.document import Outcome, document
from traces.kit.errors import one_of

RUN_KEYS = ("chunks", "warmup", "limit", "measure", "seed", "bounds", "log", "timeline")
OF_THE_POLICY = ("policy", "predictors", "log", "timeline", "scores")
"""What bounds and reference rows, which all policies share, do not depend on."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Of a result."""

    resolved: Mapping[str, Any]  # the trace by hash, everything else of the configuration by value
    code: str  # hash of the code

    @property
    def key(self) -> str:
        """The address: a hash of both."""
        content = {"resolved": self.resolved, "code": self.code}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def identify(cell: Cell, predictors: Collection[str]) -> Identity:
    """Of a cell's result; ``predictors``: those that its policy declares."""
    policy = registry.normal(cell.config.policy)
    declared = sorted(cell.predicted.keys() & predictors)
    spread = cell.costs.spread
    machine = json.loads(json.dumps(figures(asdict(cell.hardware)), default=str))  # its fractions as exact text
    resolved = {
        "trace": cell.trace.sha256,
        "policy": policy,
        "model": figures(asdict(cell.model)),
        "dtype": cell.costs.dtype,
        "hardware": charging(machine),
        **served.resolved(cell.config, cell.traffic, cell.trace, (*cell.selection.warmup, *cell.selection.measured)),
        "predictors": {name: cell.predicted[name].sha256 for name in declared},
        "budget_bytes": cell.setup.budget * spread.alike,
        **({"placement": spread.placement} if spread.gpus > 1 else {}),
        **host_memory.resolved(cell.hardware, cell.tier, max(cell.setup.expert_bytes)),
        **{key: getattr(cell.config, key) for key in RUN_KEYS},
        "limit": cell.config.limit if cell.selection.left_out else None,
        **({"scores": True} if cell.config.scores else {}),
    }
    return Identity(resolved, code_digest(policy["name"]))


def _changed(cell: Cell) -> list[str]:
    """Of the machine; of its disk only where something is read from it."""
    found = changed("hardware", cell.config.hardware)
    return [key for key in found if cell.tier is not None or not f"{key}.".startswith("disk.")]


def of_bounds(own: Identity) -> Identity:
    """Of the bounds and reference rows that a cell's result shares with those of all other policies."""
    shared = {key: value for key, value in own.resolved.items() if key not in OF_THE_POLICY}
    return Identity(shared, code_digest())


def result_of(
    cell: Cell, outcome: Outcome, bounds: Mapping[str, Any] | None, identity: Identity | None = None
) -> dict[str, Any]:
    """The content of a cell's ``result.json``; ``identity``: of the cell, where it is known."""
    own = identity or identify(cell, outcome.policy.predictors())
    room = asdict(cell.room)
    if cell.traffic is not None:
        room["kv_token_bytes"] = served.token_bytes(cell.model)
    return document(outcome, own.resolved, _provenance(cell, outcome, own), room, bounds)


def memorised(cell: Cell, policy: Policy) -> dict[str, Any]:
    """How often a request arrived, at most, where the policy remembers requests: it then knows them, and is not ranked.

    Nothing where each arrived once, or none is remembered.
    """
    if cell.traffic is None or not cell.traffic.replayed or not policy.memorises():
        return {}
    return {"memorised": {"replays": max(cell.traffic.replays.values())}}


def _provenance(cell: Cell, outcome: Outcome, own: Identity) -> dict[str, Any]:
    manifest = cell.trace.manifest
    itself = cell.model.name == manifest.model.name
    priced = in_versions(cell.costs, outcome.policy.setup.versions[1:])
    costs = dict(priced.sources) | _host(cell, outcome)
    return {
        "trace": {
            "sha256": cell.trace.sha256,
            "recording": manifest.recording,
            "recorder": asdict(manifest.recorder),
            "decoding": dict(manifest.decoding),
            "prompts": asdict(manifest.prompts),
        },
        **modelled(cell, outcome.policy),
        "routing_from": manifest.model.name,
        "priced_as": cell.model.name,
        "pricing": f"routing from {manifest.model.name}, priced as {'itself' if itself else cell.model.name}",
        "compute": _compute(cell),
        "model": {
            "name": cell.model.name,
            **own_title("model", cell.model),
            "changed": changed("model", cell.config.model, cell.model),
        },
        "hardware": {
            "name": cell.hardware.name,
            **own_title("hardware", cell.hardware),
            "provenance": cell.hardware.provenance,
            "inferred": list(cell.hardware.inferred),
            "changed": _changed(cell),
            "overheads": cell.hardware.overheads,
            **_own_time(cell, outcome),
            **_noisy(cell, costs),
        },
        "costs": costs,
        "predictors": fitted(cell, outcome.policy),
        "lossless": outcome.policy.output() == "lossless",
        "output": outcome.policy.output(),
        "clairvoyant": outcome.policy.clairvoyant,
        **memorised(cell, outcome.policy),
        "measured_requests": measured_requests(cell),
        "seed": cell.config.seed,
        "code": own.code,
        "cell": own.key,
        "decision_digest": outcome.core.digest(),
    }


def fitted(cell: Cell, policy: Policy) -> dict[str, Any]:
    """What is known of the predictors that a policy reads, by name."""
    read = [cell.setup.predictors[name] for name in sorted(policy.predictors() & cell.predicted.keys())]
    return {
        it.name: {"sha256": cell.predicted[it.name].sha256, "stride": it.stride, "top_k": it.top_k, **it.about}
        for it in read
    }


def modelled(cell: Cell, policy: Policy) -> dict[str, Any]:
    """What this run rests on that nobody recorded: the routing, signals and predictors that its policy reads."""
    read = {"expert_ids", *policy.needs()}
    inputs = {cell.setup.predictors[name].about.get("input") for name in policy.predictors() & cell.predicted.keys()}
    read |= {"router_probs"} if "routing" in inputs else set()
    read |= {"hidden"} if "hidden" in inputs else set()
    found = {name: dict(about) for name, about in cell.trace.manifest.modelled.items() if name in read}
    found |= learned(policy, {name: cell.setup.predictors[name] for name in cell.predicted})
    return {"modelled": found} if found else {}


def learned(policy: Policy, predictors: Mapping[str, Predictor]) -> dict[str, Any]:
    """Those predictors a policy reads that rest on what nobody recorded: ``predictor NAME``, with the signals."""
    read = {name: predictors[name].about.get("fit", {}) for name in sorted(policy.predictors() & predictors.keys())}
    return {f"predictor {name}": dict(made) for name, fit in read.items() if (made := fit.get("modelled"))}


def _noisy(cell: Cell, costs: Mapping[str, str]) -> dict[str, Any]:
    """Of the measured tables that priced this run, those whose samples lay far apart; ``costs``: each one's source."""
    found = cell.hardware.measured.noisy() if cell.hardware.measured is not None else {}
    used = " ".join(costs.values())
    mine = {name: points for name, points in found.items() if f"{name} (" in used}
    return {"noisy": mine} if mine else {}


def _host(cell: Cell, outcome: Outcome) -> dict[str, str]:
    """What priced experts on the host; nothing for a policy that leaves it alone."""
    host = cell.setup.host if outcome.core.places is not None else None
    return {"host": host.source} if isinstance(host, HostPrices) else {}


def _own_time(cell: Cell, outcome: Outcome) -> dict[str, Any]:
    """What was charged for the policy's own decisions, in microseconds per pass; nothing where none was."""
    if not outcome.accounts.policy_ns:
        return {}
    prefill, decode = policy_time(cell.hardware, outcome.policy.name).ns()
    return {"policy_us": {"prefill": prefill / 1000, "decode": decode / 1000, "within": "compute"}}


def measured_requests(cell: Cell) -> str:
    """Which requests were measured, in words."""
    words = ["the test split" if cell.selection.train else "all"]
    if cell.config.measure == "validation":
        words = ["a part of the train split, not learned from"]
    if cell.selection.left_out:
        words.append(f"of these the first {cell.config.limit}")
    if cell.config.warmup:
        words.append(f"after {cell.config.warmup} to warm up")
    return ", ".join(words)


def _compute(cell: Cell) -> str:
    tables = [cost for cost in ("dense", "experts") if cell.costs.sources[cost].startswith("table")]
    if tables:
        return f"measured tables ({one_of(tables)}), roofline for the rest"
    return "roofline" if cell.model.shapes_known else "bytes / HBM bandwidth (shapes unknown)"
