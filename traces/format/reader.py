"""Open a trace: everything is checked before anything is mapped, and nothing is ever unpickled."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from traces.format.check import check_rows, check_steps
from traces.format.layout import (
    MANIFEST_FILE,
    PREDICTED,
    REQUESTS_FILE,
    SIGNALS,
    STEP_DTYPE,
    STEPS_FILE,
    Array,
    Request,
    absent_id,
    check_trailing,
    signal_dtype,
)
from traces.format.manifest import MAX_MANIFEST, Manifest, parse_manifest
from traces.format.npy import check_file, map_file, open_file, row_chunks
from traces.format.predicted import Predicted, open_predicted
from traces.format.requests import parse_requests
from traces.kit.errors import TraceError, UserError, one_of, refusal
from traces.kit.whole import JOURNAL, is_partial

VERIFY = ("full", "hash", "shape")
DATA = "unfinished"
"""Of a recording that outlives its process: the folder of its files, in the hidden one that holds its journal."""


@dataclass(frozen=True, eq=False)
class Trace:
    """A trace that has been checked. Arrays are read-only; all but ``steps`` are memory-mapped.

    N rows (tokens recorded), L MoE layers, E experts in each, of which a token chooses K at most. Shapes:
    ``expert_ids`` and ``expert_weights`` [N, L, K], ``router_probs`` and ``router_choice`` [N, L, E], ``gate_ahead``
    [N, L, A, K] (entry a: the gate of layer l + 1 + a on what entered the gate of layer l), ``hidden`` [N, L, D'],
    ``embedding`` [N, D], ``token_ids`` [N]; None where not recorded. ``requests[r].request == r``. ``sha256``
    identifies the trace with all of its files. ``predicted``: the outputs of fitted predictors that lie beside it, by
    name, which come and go without changing it.
    """

    path: Path
    manifest: Manifest
    sha256: str
    requests: tuple[Request, ...]
    steps: Array
    expert_ids: np.memmap
    expert_weights: np.memmap | None = None
    router_probs: np.memmap | None = None
    router_choice: np.memmap | None = None
    gate_ahead: np.memmap | None = None
    hidden: np.memmap | None = None
    embedding: np.memmap | None = None
    token_ids: np.memmap | None = None
    predicted: Mapping[str, Predicted] = field(default_factory=dict)
    L: int = field(init=False)
    E: int = field(init=False)
    K: int = field(init=False)
    N: int = field(init=False)
    absent: int = field(init=False)
    """The id that marks an absent entry."""
    _first_steps: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        model, bounds = self.manifest.model, np.arange(len(self.requests) + 1)
        facts: dict[str, Any] = {"L": model.n_layers, "E": model.n_experts, "K": model.top_k}
        facts |= {"N": self.manifest.counts.tokens, "absent": absent_id(model.n_experts)}
        facts |= {"_first_steps": np.searchsorted(self.steps["request"], bounds)}
        for name, value in facts.items():
            object.__setattr__(self, name, value)

    def has(self, signal: str) -> bool:
        """Say whether ``signal`` was recorded; raises UserError for a name the format does not know."""
        if signal not in SIGNALS:
            raise UserError(f"signal is {signal!r}; allowed: {one_of(SIGNALS)}")
        return getattr(self, signal) is not None

    def rows_of(self, request: int) -> slice:
        """Return where the rows of ``request`` lie in every array."""
        steps = self.steps[self.steps_of(request)]
        return slice(int(steps["first_row"][0]), int(steps["first_row"][-1] + steps["rows"][-1]))

    def steps_of(self, request: int) -> slice:
        """Return where the steps of ``request`` (0 to the number of requests - 1) lie in ``steps``."""
        if not 0 <= request < len(self.requests):
            raise UserError(f"request is {request}; allowed: 0 to {len(self.requests) - 1}")
        return slice(int(self._first_steps[request]), int(self._first_steps[request + 1]))


def find_trace(name: str) -> Path:
    """The folder of a shipped trace's name, or the path given. UserError with the names there are."""
    if name == "sample":
        return Path(__file__).resolve().parents[1] / "sample"
    if not name or not Path(name).is_dir():
        raise UserError(f"trace={name}: no such trace; allowed: sample, or the folder of a trace")
    return Path(name)


def open_trace(path: str | os.PathLike[str], verify: str = "full") -> Trace:
    """Open the trace in folder ``path``.

    ``verify``: "shape" checks the manifest, every header against it and against the size of its file, the
    requests and the steps; "hash" also the SHA-256 of every file; "full" also every value, in chunks of
    bounded memory. Raises TraceError with one line that names file, field, value and what is allowed.
    """
    if verify not in VERIFY:
        raise UserError(f"verify is {verify!r}; allowed: {one_of(VERIFY)}")
    folder = Path(path)
    try:
        return _open(folder, verify)
    except OSError as error:
        raise TraceError(f"{folder}: {error.strerror or error}; allowed: a readable folder with a trace") from None


def _open(folder: Path, verify: str) -> Trace:
    if not folder.is_dir():
        raise TraceError(f"{folder}: not a folder; allowed: a folder with {MANIFEST_FILE}")
    if is_unfinished(folder):
        raise TraceError(f"{folder}: an unfinished recording; allowed: a trace, which the command that began it makes")
    if not os.path.lexists(folder / MANIFEST_FILE):
        found = "the folder is empty" if not any(folder.iterdir()) else f"it has no {MANIFEST_FILE}"
        raise TraceError(f"{folder}: no trace, {found}; allowed: a folder that import or collect has made")
    with open_file(folder, MANIFEST_FILE) as stream:
        raw = stream.read(MAX_MANIFEST + 1)
    manifest = parse_manifest(raw)
    _check_listing(folder, manifest)
    for name, entry in manifest.files.items():
        check_file(folder, name, entry, hashed=verify != "shape")

    with open_file(folder, REQUESTS_FILE) as stream:
        requests = parse_requests(stream.read())
    counts = manifest.counts
    if len(requests) != counts.requests:
        raise refusal(REQUESTS_FILE, "number of requests", len(requests), f"{counts.requests}, as in {MANIFEST_FILE}")
    steps = np.array(map_file(folder, STEPS_FILE, manifest.files[STEPS_FILE], STEP_DTYPE, (counts.steps,)))
    steps.setflags(write=False)
    check_steps(requests, steps, 0, counts.tokens)
    signals = {name: _signal(folder, name, manifest) for name in SIGNALS if f"{name}.npy" in manifest.files}
    sha256 = hashlib.sha256(raw).hexdigest()
    if verify == "full" and sha256 not in _checked:
        _check_values(signals, manifest)
        _checked.add(sha256)
    beside = os.path.lexists(folder / PREDICTED)
    predicted = open_predicted(folder, manifest, sha256, verify) if beside else {}
    return Trace(folder, manifest, sha256, requests, steps, **signals, predicted=predicted)


_checked: set[str] = set()
"""SHA-256 of manifests whose files, which have the hashes that it lists, this process has found right, every value."""


def is_unfinished(folder: Path) -> bool:
    """Say whether ``folder`` is where a trace is being made, or was until its process was killed: it is none yet."""
    place = folder.absolute()
    if (place.name == DATA and is_partial(place.parent)) or os.path.lexists(place / JOURNAL):
        return True
    return is_partial(place) and not os.path.lexists(place / MANIFEST_FILE)


def _check_listing(folder: Path, manifest: Manifest) -> None:
    found = {entry.name for entry in folder.iterdir()}
    listed = {MANIFEST_FILE, *manifest.files}
    for name in sorted(found - listed - {PREDICTED}):
        raise refusal(name, "name", name, f"the files that {MANIFEST_FILE} lists: {one_of(manifest.files)}")
    for name in sorted(listed - found):
        raise refusal(name, "file", "missing", f"present, as {MANIFEST_FILE} lists it")


def _signal(folder: Path, name: str, manifest: Manifest) -> np.memmap:
    model, entry = manifest.model, manifest.files[f"{name}.npy"]
    trailing = (entry.shape or ())[1:]
    check_trailing(MANIFEST_FILE, name, trailing, model.n_layers, model.n_experts, model.top_k)
    shape = (manifest.counts.tokens, *trailing)
    return map_file(folder, f"{name}.npy", entry, signal_dtype(name, model.n_experts), shape)


def _check_values(signals: dict[str, np.memmap], manifest: Manifest) -> None:
    """Check every value, one signal at a time; weights are checked along with their ids."""
    for name, array in signals.items():
        together = {name: array} if name != "expert_weights" else {"expert_ids": signals["expert_ids"], name: array}
        row_bytes = sum(part.nbytes // part.shape[0] for part in together.values())
        for chunk in row_chunks(manifest.counts.tokens, row_bytes):
            rows = {key: np.asarray(part[chunk]) for key, part in together.items()}
            check_rows(rows, manifest.model.n_experts, chunk.start)
