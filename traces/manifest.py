"""``trace.json``: what was recorded, by whom and how, and the hash of every file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NotRequired, TypedDict, TypeVar

from traces.errors import one_of
from traces.format import MANIFEST_FILE, MAX_EXPERTS, REQUESTS_FILE, SCHEMA, SIGNALS, STEPS_FILE, refusal
from traces.strict import load_json

DECODING_MODES = ("greedy", "sampled", "teacher_forced", "unknown")
RECORDINGS = ("recorded", "synthetic")
REQUIRED_FILES = (REQUESTS_FILE, STEPS_FILE, "expert_ids.npy")
KNOWN_FILES = (REQUESTS_FILE, STEPS_FILE, *(f"{name}.npy" for name in SIGNALS))
_MAX_INT = 2**62
T = TypeVar("T")


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


@dataclass(frozen=True)
class FileEntry:
    """One file: its SHA-256 and size; for arrays also numpy's dtype text and the full shape."""

    sha256: str
    bytes: int
    dtype: str | None
    shape: tuple[int, ...] | None


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
        return (json.dumps(document, indent=1, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")


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
    top = _object(document, "document", keys)
    decoding = _mapping(top["decoding"], "decoding", _anything)
    _choice(decoding.get("mode"), "decoding.mode", DECODING_MODES)
    manifest = Manifest(
        model=_model(top["model"]),
        recorder=_recorder(top["recorder"]),
        decoding=decoding,
        recording=_choice(top["recording"], "recording", RECORDINGS),
        prompts=_prompts(top["prompts"]),
        priced_as=_optional(top["priced_as"], "priced_as", _text),
        counts=_counts(top["counts"]),
        files=_files(top["files"]),
    )
    if not set(REQUIRED_FILES) <= set(manifest.files):
        raise refusal(MANIFEST_FILE, "files", one_of(manifest.files), f"at least {one_of(REQUIRED_FILES)}")
    return manifest


def _model(value: object) -> Model:
    keys = tuple(Model.__dataclass_fields__)
    node = _object(value, "model", keys)
    n_layers = _integer(node["n_layers"], "model.n_layers", 1)
    n_experts = _integer(node["n_experts"], "model.n_experts", 1, MAX_EXPERTS)
    return Model(
        name=_text(node["name"], "model.name"),
        revision=_optional(node["revision"], "model.revision", _text),
        n_layers=n_layers,
        n_experts=n_experts,
        top_k=_integer(node["top_k"], "model.top_k", 1, n_experts),
        expert_bytes=_optional(
            node["expert_bytes"],
            "model.expert_bytes",
            lambda v, f: _integers(v, f, minimum=1, length=n_layers),
        ),
        shapes=_optional(node["shapes"], "model.shapes", lambda v, f: _mapping(v, f, lambda w, g: _integer(w, g, 1))),
        dtype=_optional(node["dtype"], "model.dtype", _text),
        scoring=_optional(node["scoring"], "model.scoring", _text),
    )


def _recorder(value: object) -> Recorder:
    node = _object(value, "recorder", ("name", "version", "device"))
    return Recorder(
        _text(node["name"], "recorder.name"),
        _optional(node["version"], "recorder.version", _text),
        _optional(node["device"], "recorder.device", _text),
    )


def _prompts(value: object) -> Prompts:
    node = _object(value, "prompts", ("source", "licence"))
    return Prompts(
        _optional(node["source"], "prompts.source", _text),
        _optional(node["licence"], "prompts.licence", _text),
    )


def _counts(value: object) -> Counts:
    node = _object(value, "counts", ("requests", "steps", "tokens"))
    return Counts(*(_integer(node[key], f"counts.{key}", 1) for key in ("requests", "steps", "tokens")))


def _files(value: object) -> dict[str, FileEntry]:
    entries = {}
    for name, entry in _mapping(value, "files", _anything).items():
        _choice(name, "name in files", KNOWN_FILES)
        node = _object(entry, f"files.{name}", ("sha256", "bytes", "dtype", "shape"))
        digest = _text(node["sha256"], f"files.{name}.sha256")
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise refusal(MANIFEST_FILE, f"files.{name}.sha256", digest, "64 lower-case hexadecimal digits")
        entries[name] = FileEntry(
            digest,
            _integer(node["bytes"], f"files.{name}.bytes", 0),
            _optional(node["dtype"], f"files.{name}.dtype", _text),
            _optional(node["shape"], f"files.{name}.shape", lambda v, f: _integers(v, f, minimum=1)),
        )
    return entries


def _object(value: object, field: str, keys: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != set(keys):
        found = f"keys {one_of(value)}" if isinstance(value, dict) else value
        raise refusal(MANIFEST_FILE, field, found, f"exactly the keys {one_of(keys)}")
    return value


def _mapping(value: object, field: str, item: Callable[[object, str], T]) -> dict[str, T]:
    if not isinstance(value, dict):
        raise refusal(MANIFEST_FILE, field, value, "an object")
    return {key: item(entry, f"{field}.{key}") for key, entry in value.items()}


def _optional(value: object, field: str, parse: Callable[[object, str], T]) -> T | None:
    return None if value is None else parse(value, field)


def _anything(value: object, _field: str) -> Any:
    return value


def _text(value: object, field: str) -> str:
    if not isinstance(value, str) or not value.isprintable() or not value:
        raise refusal(MANIFEST_FILE, field, value, "printable text")
    return value


def _choice(value: object, field: str, allowed: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise refusal(MANIFEST_FILE, field, value, one_of(allowed))
    return value


def _integer(value: object, field: str, minimum: int, maximum: int = _MAX_INT) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
        upper = "" if maximum == _MAX_INT else f", at most {maximum}"
        raise refusal(MANIFEST_FILE, field, value, f"an integer, at least {minimum}{upper}")
    return value


def _integers(value: object, field: str, minimum: int, length: int | None = None) -> tuple[int, ...]:
    if not isinstance(value, list) or (length is not None and len(value) != length):
        raise refusal(MANIFEST_FILE, field, value, f"a list of {length or ''} integers".replace("  ", " "))
    return tuple(_integer(item, f"{field}[{index}]", minimum) for index, item in enumerate(value))
