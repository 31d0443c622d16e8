"""``predicted/NAME/`` in a trace's folder: what a fitted predictor says for every token and layer, and how it was made.

``predictor.json`` holds :class:`About` and the hash of ``expert_ids.npy`` [N, L, K'], uint8 or uint16 as the trace's
own ids. Entry (n, l): the experts that the predictor of layer l names for token n in layer l + stride, the likeliest
first; absent past the last layer. ``timing.json`` may lie beside them: what depends on the machine's speed, read by
nobody. No hash of the trace covers the folder, which may come later and go; it names the trace instead. What is left
of a writing that was killed, ``.NAME.*.partial``, is passed over.
"""

import hashlib
import re
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from traces.format.check import check_outputs
from traces.format.layout import MAX_ROW, PREDICTED, ids_dtype
from traces.format.manifest import Manifest, modelled_signals
from traces.format.npy import check_file, map_file, open_file, row_chunks
from traces.kit.errors import one_of, refusal
from traces.kit.fields import Fields, FileEntry
from traces.kit.strict import dump_json
from traces.kit.whole import is_partial

SCHEMA = 1
ABOUT_FILE, IDS_FILE, TIMING_FILE = "predictor.json", "expert_ids.npy", "timing.json"
INPUTS = ("hidden", "routing")
SPLITS = ("all", "train", "test")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_MAX_ABOUT = 2**20


@dataclass(frozen=True)
class About:
    """The content of ``predictor.json``, but for the schema and the files.

    ``kind``: who makes such predictors. ``input``: hidden (what enters the gate of layer l) or routing (what the gates
    of layers 0..l said). ``trace``: SHA-256 of the ``trace.json`` that the outputs belong to. ``fit``: how it was
    made, and on what; in it ``modelled``, as in Manifest: what it learned from or was given that nobody recorded.
    ``accuracy``: by split of this trace, for each layer l the share of the experts named there that
    layer l + stride then used; None where there is nothing to count.
    """

    name: str
    kind: str
    input: str
    stride: int
    top_k: int
    trace: str
    fit: Mapping[str, Any]
    accuracy: Mapping[str, tuple[float | None, ...] | None]

    def to_json(self, ids: FileEntry) -> bytes:
        document = {"schema": SCHEMA, **asdict(self), "files": {IDS_FILE: asdict(ids)}}
        return dump_json(document).encode("ascii")


@dataclass(frozen=True, eq=False)
class Predicted:
    """The outputs of one predictor, checked. ``sha256`` identifies them and all that is said about them."""

    folder: Path
    about: About
    sha256: str
    entry: FileEntry
    _shape: tuple[int, int, int]

    @cached_property
    def expert_ids(self) -> np.memmap:
        """The outputs [N, L, K'], read-only, mapped when they are first asked for."""
        file, listed = file_of(self.about.name, IDS_FILE), file_of(self.about.name, ABOUT_FILE)
        return map_file(self.folder, file, self.entry, np.dtype(str(self.entry.dtype)), self._shape, listed)


def open_predicted(folder: Path, manifest: Manifest, sha256: str, verify: str) -> Mapping[str, Predicted]:
    """Check what lies beside the trace in ``folder``, as open_trace checks the trace; returns it by name.

    ``sha256``: the trace's. Raises TraceError.
    """
    place = folder / PREDICTED
    _refuse_unless_folder(place, PREDICTED)
    names = sorted(path.name for path in place.iterdir() if not is_partial(path))
    return {name: open_one(folder, name, manifest, sha256, verify) for name in names}


def open_one(folder: Path, name: str, manifest: Manifest, sha256: str, verify: str = "full") -> Predicted:
    """Check the outputs of the predictor ``name`` alone; see open_predicted."""
    check_name(name)
    home = folder / PREDICTED / name
    _refuse_unless_folder(home, f"{PREDICTED}/{name}")
    allowed = (ABOUT_FILE, IDS_FILE, TIMING_FILE)
    found = {path.name for path in home.iterdir()}
    for stray in sorted(found.difference(allowed)):
        raise refusal(file_of(name, stray), "name", stray, one_of(allowed))
    for missing in sorted({ABOUT_FILE, IDS_FILE} - found):
        raise refusal(file_of(name, missing), "file", "missing", "present")
    if TIMING_FILE in found:
        open_file(folder, file_of(name, TIMING_FILE)).close()
    with open_file(folder, file_of(name, ABOUT_FILE)) as stream:
        raw = stream.read(_MAX_ABOUT + 1)
    about, entry = check_about(raw, name, manifest, sha256)
    file, listed = file_of(name, IDS_FILE), file_of(name, ABOUT_FILE)
    check_file(folder, file, entry, hashed=verify != "shape", listed=listed)
    shape = manifest.counts.tokens, manifest.model.n_layers, about.top_k
    ours = ids_dtype(manifest.model.n_experts)
    map_file(folder, file, entry, ours, shape, listed)
    outputs = Predicted(folder, about, hashlib.sha256(raw).hexdigest(), entry, shape)
    if verify == "full" and outputs.sha256 not in _checked:
        for rows in row_chunks(shape[0], shape[1] * shape[2] * ours.itemsize):
            block = np.asarray(outputs.expert_ids[rows])
            check_outputs(file, block, manifest.model.n_experts, about.stride, rows.start)
        _checked.add(outputs.sha256)
    return outputs


_checked: set[str] = set()
"""Of outputs that this process has found right, every value: what is said about them has their file's hash."""


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a predictor: it is a folder's, and a word of the command line."""
    if not _NAME.fullmatch(name):
        raise refusal(PREDICTED, "name of a predictor", name, "1 to 64 of a-z, A-Z, 0-9, _ . -, the first not . or -")


def fit_facts(fields: Fields, value: object, field: str) -> dict[str, Any]:
    """The entry ``fit``: whatever stands there, but for what it says is modelled. TraceError."""
    found = fields.mapping(value, field, fields.anything)
    if "modelled" in found:
        modelled_signals(fields, found["modelled"], f"{field}.modelled")
    return found


def file_of(name: str, file: str) -> str:
    return f"{PREDICTED}/{name}/{file}"


def _refuse_unless_folder(path: Path, shown: str) -> None:
    if not stat.S_ISDIR(path.lstat().st_mode):
        raise refusal(shown, "kind of file", "not a folder", f"folders {PREDICTED}/NAME; links are not followed")


def check_about(raw: bytes, name: str, manifest: Manifest, sha256: str) -> tuple[About, FileEntry]:
    """What the bytes of a ``predictor.json`` say of the predictor ``name`` and its outputs. TraceError."""
    fields, model = Fields(file_of(name, ABOUT_FILE)), manifest.model
    document = fields.document(raw, SCHEMA, (*About.__dataclass_fields__, "files"), _MAX_ABOUT)
    files = fields.exactly(document.pop("files"), "files", (IDS_FILE,))
    if document["trace"] != sha256:
        raise refusal(fields.file, "trace", document["trace"], f"{sha256}, the trace that it lies beside")

    def shares(value: object, field: str) -> tuple[float | None, ...] | None:
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != model.n_layers:
            raise refusal(fields.file, field, value, f"null, or a list of {model.n_layers} numbers or nulls")
        return tuple(fields.optional(item, f"{field}[{layer}]", fields.share) for layer, item in enumerate(value))

    about = fields.record(
        About,
        document,
        "",
        name=partial(fields.choice, allowed=(name,)),
        input=partial(fields.choice, allowed=INPUTS),
        stride=partial(fields.integer, minimum=1, maximum=max(1, model.n_layers - 1)),
        top_k=partial(fields.integer, minimum=1, maximum=min(model.n_experts, MAX_ROW // model.n_layers)),
        fit=partial(fit_facts, fields),
        accuracy=lambda v, f: fields.mapping(fields.exactly(v, f, SPLITS), f, shares),
    )
    return about, fields.file_entry(files[IDS_FILE], f"files.{IDS_FILE}")
