"""What a run on a device leaves, as data: it can be judged where it was made, or later and elsewhere.

So can the policies' own time, from the logs of a grid's runs.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import real
from real.runtime.runner import DeviceRun
from real.serving.apart import Apart
from real.serving.given import Written, written
from sim.core.accounts import Accounts
from sim.experiment.cell import Cell, Inputs, make_cell, make_core, make_policy
from sim.experiment.config import RunConfig
from sim.experiment.policy_time import BASELINE, Logged, measure_policy_time
from sim.experiment.provenance import result_of
from sim.results.label import label
from traces.kit.errors import UserError
from traces.kit.strict import dump_json
from traces.kit.telling import in_short
from traces.kit.whole import write_whole

BYTES = ("fate_bytes", "demand_bytes", "speculative_bytes")
COUNTED = ("hits", "fates", "issued", *BYTES, "predicts", "quality", "host_lookups")
"""Of the accounts: what the core counts, which a replay must count alike. Nanoseconds are the machine's."""


@dataclass(frozen=True)
class Ran:
    """One run. ``document``: the result, as the simulator's; ``log``: the facts, int64 words as in sim.core.log.

    ``counted``: COUNTED of the accounts. ``link``: nanoseconds in which it copied, and the bytes of those copies.
    ``code``: of the runtime that ran it.
    """

    document: Mapping[str, Any]
    digest: str
    counted: Mapping[str, Any]
    log: Sequence[int]
    slots: Mapping[str, Any]
    link: Mapping[str, int]
    trace: str
    """SHA-256 of the trace whose routing it was."""
    code: str
    batches: Written | None = None
    """Where requests arrived, what each pass computed."""

    @classmethod
    def of(cls, cell: Cell, run: DeviceRun) -> Ran:
        """Of a run that has ended."""
        accounts, serving = run.outcome.accounts, run.outcome.serving
        return cls(
            result_of(cell, run.outcome, None),
            run.core.digest(),
            counted(accounts),
            run.core.log,
            run.machine.facts(),
            {"busy_ns": accounts.link_busy_ns, "bytes": accounts.demand_bytes + accounts.speculative_bytes},
            cell.trace.sha256,
            runtime_digest(),
            written(serving.batches()) if isinstance(serving, Apart) else None,
        )

    @property
    def wall_ns(self) -> int:
        """The measured window."""
        return int(self.document["totals"]["wall_ns"])


def counted(accounts: Accounts) -> dict[str, Any]:
    """What a replay must count alike, as JSON has it."""
    found: dict[str, Any] = json.loads(json.dumps({key: getattr(accounts, key) for key in COUNTED}))
    return found


@cache
def runtime_digest() -> str:
    """Hash of the runtime's own files; the simulator's and the policy's stand with each cell."""
    digest = hashlib.sha256()
    root = Path(str(real.__file__)).parent
    for path in sorted((*(root / "runtime").rglob("*.py"), *(root / "serving").rglob("*.py"))):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()} {len(content)} ".encode() + content)
    return digest.hexdigest()[:16]


def save(path: Path, config: RunConfig, ran: Ran) -> None:
    """Write PATH.json and, before it, PATH.npz with the log: where the first is, the run is whole."""
    stream = io.BytesIO()
    np.savez_compressed(stream, log=np.frombuffer(array("q", ran.log), dtype=np.int64))
    write_whole(path.with_name(f"{path.name}.npz"), stream.getvalue())
    content = {key: value for key, value in vars(ran).items() if key != "log"}
    write_whole(path.with_name(f"{path.name}.json"), dump_json({"config": asdict(config), "ran": content}))


def load(path: Path, traces: Path) -> tuple[RunConfig, Ran]:
    """What :func:`save` wrote as PATH.json: the configuration and the run.

    ``traces``: the folder in which a trace lies that the configuration names by a relative path. UserError for a file
    that is damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
            log = array("q", arrays["log"].astype(np.int64).tobytes())
        config, ran = RunConfig.from_dict(found["config"]), Ran(log=log, **found["ran"])
    except OSError as error:
        raise UserError(
            f"{error.filename or path}: {error.strerror}; allowed: what python -m real measure wrote"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        why = in_short(error, kind=True)
        raise UserError(
            f"{path}: not a run of python -m real measure ({why}); remove it, and measure it again"
        ) from None
    if config.trace != "sample" and not Path(config.trace).is_absolute():
        config = replace(config, trace=str(traces / config.trace))
    return config, ran


Runs = dict[tuple[str, str], tuple[RunConfig, list[Ran]]]
"""By policy, as its label says it, and budget: the configuration, and all runs of it."""


def load_all(folder: Path, traces: Path) -> Runs:
    """All runs in a folder. UserError for two of one policy and budget that were not run alike."""
    found: Runs = {}
    for path in sorted(folder.glob("*.json")):
        config, ran = load(path, traces)
        kept = found.setdefault((label(config.policy), str(config.budget)), (config, []))
        if kept[0] != config:
            raise UserError(f"{path}: of another configuration than the run before it; measure into a new folder")
        kept[1].append(ran)
    return found


def own_time(runs: Runs, budget: str, inputs: Inputs) -> dict[str, Any]:
    """By policy that ran at ``budget``: microseconds of this machine's CPU per pass, above on_demand's.

    As ``software.policy_us`` of a hardware profile takes them; {} where on_demand has not run. See
    sim.experiment.policy_time.
    """

    def logged(config: RunConfig, ran: Sequence[Ran]) -> Logged:
        cell = make_cell(config, inputs)
        return Logged(ran[0].log, lambda: make_core(cell, make_policy(cell)))

    base = next((logged(*it) for (policy, _), it in runs.items() if policy == BASELINE), None)
    if base is None:
        return {}
    found = {}
    for (policy, size), (config, ran) in runs.items():
        if size == budget and policy != BASELINE:
            measured = measure_policy_time(logged(config, ran), base, repeat=3)
            found[config.policy["name"]] = {phase: round(took.us, 1) for phase, took in measured.items()}
    return found
