"""``trace.json``: what was recorded, by whom and how, and the hash of every file."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, NotRequired, TypedDict

from traces.format.layout import MANIFEST_FILE, MAX_EXPERTS, REQUESTS_FILE, SCHEMA, SIGNALS, STEPS_FILE
from traces.kit.errors import one_of, refusal
from traces.kit.fields import Fields, FileEntry
from traces.kit.strict import dump_json

DECODING_MODES = ("greedy", "sampled", "teacher_forced", "unknown")
RECORDINGS = ("recorded", "synthetic")
REQUIRED_FILES = (REQUESTS_FILE, STEPS_FILE, "expert_ids.npy")
KNOWN_FILES = (REQUESTS_FILE, STEPS_FILE, *(f"{name}.npy" for name in SIGNALS))
MAX_MANIFEST = 16 * 2**20
OF_MODEL = ("revision", "expert_bytes", "shapes", "dtype", "scoring", "dense_bytes")
_FIELDS = Fields(MANIFEST_FILE)
_COUNT = partial(_FIELDS.integer, minimum=1)


@dataclass(frozen=True)
class Model:
    """The model whose routing this is. ``expert_bytes``: bytes of one expert, per layer; None: unknown.

    ``dense_bytes``: all other weights that a pass reads up to the experts of each layer (attention, norms, router,
    shared experts, dense layers before it), in bytes; the head is not among them. A trace that does not know them need
    not have the key.
    """

    name: str
    revision: str | None
    n_layers: int
    n_experts: int
    top_k: int
    expert_bytes: tuple[int, ...] | None
    shapes: Mapping[str, int] | None
    dtype: str | None
    scoring: str | None
    dense_bytes: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Recorder:
    name: str
    version: str | None
    device: str | None


@dataclass(frozen=True)
class Prompts:
    source: str | None
    licence: str | None


@dataclass(frozen=True)
class Counts:
    """How much was recorded; ``tokens`` is N, the rows of every array."""

    requests: int
    steps: int
    tokens: int


class About(TypedDict):
    """What a recorder says of a trace beside its rows; see Manifest. ``name`` to ``scoring`` are of the Model."""

    name: str
    recorder: Recorder
    decoding: Mapping[str, Any]
    recording: str
    prompts: Prompts
    revision: NotRequired[str | None]
    expert_bytes: NotRequired[Sequence[int] | None]
    shapes: NotRequired[Mapping[str, int] | None]
    dtype: NotRequired[str | None]
    scoring: NotRequired[str | None]
    dense_bytes: NotRequired[Sequence[int] | None]
    priced_as: NotRequired[str | None]
    modelled: NotRequired[Mapping[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Manifest:
    """The content of ``trace.json``. ``decoding`` holds "mode" and whatever settings the recorder knows.

    ``modelled``: the arrays that nobody recorded, by signal, each with the parameters of what made it up; a trace
    without any need not have the key.
    """

    model: Model
    recorder: Recorder
    decoding: Mapping[str, Any]
    recording: str
    prompts: Prompts
    priced_as: str | None
    counts: Counts
    files: Mapping[str, FileEntry]
    modelled: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def about(self) -> About:
        """What a writer is told of a copy: all but counts and files."""
        model = {key: getattr(self.model, key) for key in ("name", *OF_MODEL)}
        kept = ("recorder", "decoding", "recording", "prompts", "priced_as", "modelled")
        return {**model, **{key: getattr(self, key) for key in kept}}  # type: ignore[typeddict-item]

    def to_json(self) -> bytes:
        document = {"schema": SCHEMA, **asdict(self)}
        if not self.modelled:
            del document["modelled"]
        if self.model.dense_bytes is None:
            del document["model"]["dense_bytes"]
        return dump_json(document).encode("ascii")


def parse_manifest(raw: bytes) -> Manifest:
    """Parse the bytes of ``trace.json``; raises TraceError for anything the format does not know."""
    document = _FIELDS.document(raw, SCHEMA, tuple(Manifest.__dataclass_fields__), MAX_MANIFEST, modelled={})
    manifest = _FIELDS.record(
        Manifest,
        document,
        "",
        model=_model,
        recorder=partial(_FIELDS.record, Recorder),
        decoding=_decoding,
        recording=partial(_FIELDS.choice, allowed=RECORDINGS),
        prompts=partial(_FIELDS.record, Prompts),
        counts=partial(_FIELDS.record, Counts, requests=_COUNT, steps=_COUNT, tokens=_COUNT),
        files=_files,
        modelled=partial(modelled_signals, _FIELDS),
    )
    for name in manifest.modelled:
        if f"{name}.npy" not in manifest.files:
            raise refusal(MANIFEST_FILE, "modelled", name, "signals that the trace has")
    if not set(REQUIRED_FILES) <= set(manifest.files):
        raise refusal(MANIFEST_FILE, "files", one_of(manifest.files), f"at least {one_of(REQUIRED_FILES)}")
    return manifest


def _model(value: Any, field: str) -> Model:
    if isinstance(value, dict):
        value = {"dense_bytes": None} | value
    # The fields are read in order: what others are held against has been checked before them.
    return _FIELDS.record(
        Model,
        value,
        field,
        n_layers=_COUNT,
        n_experts=partial(_FIELDS.integer, minimum=1, maximum=MAX_EXPERTS),
        top_k=lambda v, f: _FIELDS.integer(v, f, 1, value["n_experts"]),
        expert_bytes=lambda v, f: _FIELDS.integers(v, f, minimum=1, length=value["n_layers"]),
        shapes=partial(_FIELDS.mapping, item=_COUNT),
        dense_bytes=lambda v, f: _FIELDS.integers(v, f, minimum=0, length=value["n_layers"]),
    )


def _decoding(value: object, field: str) -> dict[str, Any]:
    decoding = _FIELDS.mapping(value, field, _FIELDS.anything)
    _FIELDS.choice(decoding.get("mode"), f"{field}.mode", DECODING_MODES)
    return decoding


def modelled_signals(fields: Fields, value: object, field: str) -> dict[str, dict[str, Any]]:
    """What stands under ``modelled`` in a file: signals, each with what made it up. TraceError."""
    found = fields.mapping(value, field, lambda item, place: fields.mapping(item, place, fields.anything))
    for name in found:
        fields.choice(name, f"name in {field}", tuple(SIGNALS))
    return found


def _files(value: object, field: str) -> dict[str, FileEntry]:
    for name in _FIELDS.mapping(value, field, _FIELDS.anything):
        _FIELDS.choice(name, f"name in {field}", KNOWN_FILES)
    return _FIELDS.mapping(value, field, _FIELDS.file_entry)
