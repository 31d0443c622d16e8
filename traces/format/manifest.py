"""``trace.json``: what was recorded, by whom and how, and the hash of every file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NotRequired, TypedDict

from traces.format.layout import MANIFEST_FILE, MAX_EXPERTS, REQUESTS_FILE, SCHEMA, SIGNALS, STEPS_FILE
from traces.kit.errors import one_of, refusal
from traces.kit.fields import Fields, FileEntry
from traces.kit.strict import dump_json, load_json

DECODING_MODES = ("greedy", "sampled", "teacher_forced", "unknown")
RECORDINGS = ("recorded", "synthetic")
REQUIRED_FILES = (REQUESTS_FILE, STEPS_FILE, "expert_ids.npy")
KNOWN_FILES = (REQUESTS_FILE, STEPS_FILE, *(f"{name}.npy" for name in SIGNALS))
_FIELDS = Fields(MANIFEST_FILE)


@dataclass(frozen=True)
class Model:
    """The model whose routing this is. ``expert_bytes``: bytes of one expert, per layer; None: unknown."""

    name: str
    revision: str | None
    n_layers: int
    n_experts: int
    top_k: int
    expert_bytes: tuple[int, ...] | None
    shapes: Mapping[str, int] | None
    dtype: str | None
    scoring: str | None


@dataclass(frozen=True)
class Recorder:
    """The program that wrote the trace, and the device it ran on."""

    name: str
    version: str | None
    device: str | None


@dataclass(frozen=True)
class Prompts:
    """Where the prompts come from, and under which licence."""

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
    priced_as: NotRequired[str | None]


@dataclass(frozen=True)
class Manifest:
    """The content of ``trace.json``. ``decoding`` holds "mode" and whatever settings the recorder knows."""

    model: Model
    recorder: Recorder
    decoding: Mapping[str, Any]
    recording: str
    prompts: Prompts
    priced_as: str | None
    counts: Counts
    files: Mapping[str, FileEntry]

    def to_json(self) -> bytes:
        """Return the bytes of ``trace.json``; parse_manifest reads them back."""
        document = {"schema": SCHEMA, **asdict(self)}
        return dump_json(document).encode("ascii")


def parse_manifest(raw: bytes) -> Manifest:
    """Parse the bytes of ``trace.json``; raises TraceError for anything the format does not know."""
    try:
        document = load_json(raw)
    except ValueError as error:
        raise refusal(MANIFEST_FILE, "content", str(error), "JSON with unique keys") from None
    # The version comes first: another version may have other keys.
    if not isinstance(document, dict) or document.get("schema") != SCHEMA or document["schema"] is True:
        found = document.get("schema") if isinstance(document, dict) else document
        raise refusal(MANIFEST_FILE, "schema", found, str(SCHEMA))
    keys = ("schema", "model", "recorder", "decoding", "recording", "prompts", "priced_as", "counts", "files")
    top = _FIELDS.exactly(document, "document", keys)
    decoding = _FIELDS.mapping(top["decoding"], "decoding", _FIELDS.anything)
    _FIELDS.choice(decoding.get("mode"), "decoding.mode", DECODING_MODES)
    manifest = Manifest(
        model=_model(top["model"]),
        recorder=_recorder(top["recorder"]),
        decoding=decoding,
        recording=_FIELDS.choice(top["recording"], "recording", RECORDINGS),
        prompts=_prompts(top["prompts"]),
        priced_as=_FIELDS.optional(top["priced_as"], "priced_as", _FIELDS.text),
        counts=_counts(top["counts"]),
        files=_files(top["files"]),
    )
    if not set(REQUIRED_FILES) <= set(manifest.files):
        raise refusal(MANIFEST_FILE, "files", one_of(manifest.files), f"at least {one_of(REQUIRED_FILES)}")
    return manifest


def _model(value: object) -> Model:
    keys = tuple(Model.__dataclass_fields__)
    node = _FIELDS.exactly(value, "model", keys)
    n_layers = _FIELDS.integer(node["n_layers"], "model.n_layers", 1)
    n_experts = _FIELDS.integer(node["n_experts"], "model.n_experts", 1, MAX_EXPERTS)
    return Model(
        name=_FIELDS.text(node["name"], "model.name"),
        revision=_FIELDS.optional(node["revision"], "model.revision", _FIELDS.text),
        n_layers=n_layers,
        n_experts=n_experts,
        top_k=_FIELDS.integer(node["top_k"], "model.top_k", 1, n_experts),
        expert_bytes=_FIELDS.optional(
            node["expert_bytes"],
            "model.expert_bytes",
            lambda v, f: _FIELDS.integers(v, f, minimum=1, length=n_layers),
        ),
        shapes=_FIELDS.optional(
            node["shapes"], "model.shapes", lambda v, f: _FIELDS.mapping(v, f, lambda w, g: _FIELDS.integer(w, g, 1))
        ),
        dtype=_FIELDS.optional(node["dtype"], "model.dtype", _FIELDS.text),
        scoring=_FIELDS.optional(node["scoring"], "model.scoring", _FIELDS.text),
    )


def _recorder(value: object) -> Recorder:
    node = _FIELDS.exactly(value, "recorder", ("name", "version", "device"))
    return Recorder(
        _FIELDS.text(node["name"], "recorder.name"),
        _FIELDS.optional(node["version"], "recorder.version", _FIELDS.text),
        _FIELDS.optional(node["device"], "recorder.device", _FIELDS.text),
    )


def _prompts(value: object) -> Prompts:
    node = _FIELDS.exactly(value, "prompts", ("source", "licence"))
    return Prompts(
        _FIELDS.optional(node["source"], "prompts.source", _FIELDS.text),
        _FIELDS.optional(node["licence"], "prompts.licence", _FIELDS.text),
    )


def _counts(value: object) -> Counts:
    node = _FIELDS.exactly(value, "counts", ("requests", "steps", "tokens"))
    return Counts(*(_FIELDS.integer(node[key], f"counts.{key}", 1) for key in ("requests", "steps", "tokens")))


def _files(value: object) -> dict[str, FileEntry]:
    found = _FIELDS.mapping(value, "files", _FIELDS.anything)
    for name in found:
        _FIELDS.choice(name, "name in files", KNOWN_FILES)
    return {name: _FIELDS.file_entry(entry, f"files.{name}") for name, entry in found.items()}
