"""What a result depends on, the address on disk that it has because of it, and where each of its figures is from."""

import ast
import hashlib
import json
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import resolve_name
from pathlib import Path
from typing import Any

from policies import registry
from policies.api import Policy, Predictor
from sim.experiment import served
from sim.experiment.cell import Cell
from sim.prices import figures, own_title
from sim.prices.chosen import changed, charging
from sim.prices.hardware import policy_time
from sim.prices.host import HostPrices
from sim.prices.versions import in_versions
from sim.results.document import Outcome, document
from traces.kit.errors import one_of

RUN_KEYS = ("chunks", "warmup", "limit", "measure", "seed", "bounds", "log", "timeline")
OF_THE_POLICY = ("policy", "predictors", "log", "timeline")
"""What bounds and reference rows, which all policies share, do not depend on."""
CODE = ("traces/format", "sim/core", "sim/machine", "sim/prices", "sim/workload", "policies/bounds")
"""Folders of which every file counts for the digest of the code."""
RUN, OF_A_RUN = "sim.experiment.run", ("sim.experiment", "sim.results", "sim.machine", "policies")
"""And all that a run imports of these rooms, the bounds and reference rows among it."""
ASIDE = ("sim", "sim.experiment.compose", "sim.results.wording")
"""But for what turns words into a configuration, which a result has by value, and what only talks to people."""


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
        **_host_memory(cell),
        **{key: getattr(cell.config, key) for key in RUN_KEYS},
        "limit": cell.config.limit if cell.selection.left_out else None,
    }
    return Identity(resolved, code_digest(policy["name"]))


def _changed(cell: Cell) -> list[str]:
    """Of the machine; of its disk only where something is read from it."""
    found = changed("hardware", cell.config.hardware)
    return [key for key in found if cell.tier is not None or not f"{key}.".startswith("disk.")]


def _host_memory(cell: Cell) -> dict[str, Any]:
    """What the host holds; nothing where it holds all."""
    tier = cell.tier
    if tier is None:
        return {}
    return {
        "host_memory_bytes": tier.capacity,
        "host_policy": tier.policy,
        "host_tier": "exclusive" if tier.exclusive else "inclusive",
    }


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


@cache
def code_digest(policy: str | None = None) -> str:
    """Hash of the code that a result depends on; None: of what all policies share, bounds and reference rows.

    A policy's own code is the modules of its class and base classes, and all that they import of ``policies`` and of
    the top-level packages that they are from, be these somebody else's.
    """
    digest = hashlib.sha256()
    for content in sorted(path.read_bytes() for path in code_of(policy)):
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()[:16]


def code_of(policy: str | None = None) -> set[Path]:
    """The files behind :func:`code_digest`."""
    root = Path(__file__).resolve().parents[2]
    files = {path for folder in CODE for path in (root / folder).rglob("*.py")}
    bounds = [f"policies.bounds.{path.stem}" for path in (root / "policies/bounds").glob("*.py")]
    files |= _imported([RUN, *bounds], OF_A_RUN)
    if policy is not None:
        own = {base.__module__ for base in registry.find(policy).__mro__}
        own = {name for name in own if name.partition(".")[0] not in sys.stdlib_module_names}
        files |= _imported(own, {"policies", *(name.partition(".")[0] for name in own)})
    return files


def _imported(modules: Iterable[str], within: Collection[str]) -> set[Path]:
    """The files of modules, and of all that they import within some packages, at whatever place in them."""
    found: dict[str, Path] = {}
    new = list(modules)
    while new:
        name = new.pop()
        path = None if name in found or name in ASIDE else _file(name)
        if path is None:
            continue
        found[name] = path
        for other in _imports(name, path):
            new += [other] if any(f"{other}.".startswith(f"{package}.") for package in within) else []
    return set(found.values())


@cache
def _imports(module: str, path: Path) -> frozenset[str]:
    """What may be modules among the names that a module imports, with the packages around them."""
    if path.suffix != ".py":  # compiled
        return frozenset()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names = [f"{module}."]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names += [f"{alias.name}." for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            names += [f"{base}.{alias.name}." for alias in node.names]
    return frozenset(name[:i] for name in names for i, c in enumerate(name) if c == ".")


def _file(module: str) -> Path | None:
    """Where a module lies; None for what is none. Nothing is imported for it."""
    if (known := getattr(sys.modules.get(module), "__file__", None)) is not None:
        return Path(known)
    top, _, rest = module.partition(".")
    place = rest.replace(".", "/")
    for folder in getattr(sys.modules.get(top), "__path__", ()) if rest else ():
        for path in (Path(folder, f"{place}.py"), Path(folder, place, "__init__.py")):
            if path.is_file():
                return path
    return None
