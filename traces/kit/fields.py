"""Fields of somebody's JSON, one by one: each is what it should be, or an error that names file, field and value."""

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, TypeVar

from traces.kit.errors import one_of, refusal
from traces.kit.strict import load_json

T = TypeVar("T")
MAX_INT = 2**62


@dataclass(frozen=True)
class FileEntry:
    """One file: its SHA-256 and size; for arrays also numpy's dtype text and the full shape."""

    sha256: str
    bytes: int
    dtype: str | None
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class Fields:
    """Parsers of the values in ``file``; each raises TraceError for what is not allowed."""

    file: str

    def document(self, raw: bytes, schema: int, keys: tuple[str, ...], most: int) -> dict[str, Any]:
        """The object in the bytes of a JSON file, at most so many, of this version and with these keys beside it."""
        if len(raw) > most:
            raise refusal(self.file, "size", "larger", f"at most {most} bytes")
        try:
            document = load_json(raw)
        except ValueError as error:
            raise refusal(self.file, "content", str(error), "JSON with unique keys") from None
        # The version comes first: another version may have other keys.
        if isinstance(document, dict) and (document.get("schema") != schema or document["schema"] is True):
            raise refusal(self.file, "schema", document.get("schema"), str(schema))
        self.exactly(document, "document", ("schema", *keys))
        return {key: document[key] for key in keys}

    def record(self, kind: type[T], value: object, field: str, **parse: Callable[[Any, str], Any]) -> T:
        """A dataclass of an object with its fields as keys, read in their order: by ``parse``, else as texts; null
        where the annotation says None."""
        known = {it.name: str(it.type) for it in fields(kind)}  # type: ignore[arg-type]
        node, found = self.exactly(value, field or "document", tuple(known)), dict[str, Any]()
        for key, of in known.items():
            absent = node[key] is None and of.endswith("None")
            found[key] = None if absent else parse.get(key, self.text)(node[key], f"{field}.{key}".lstrip("."))
        return kind(**found)

    def exactly(self, value: object, field: str, keys: tuple[str, ...]) -> dict[str, Any]:
        if not isinstance(value, dict) or set(value) != set(keys):
            found = f"keys {one_of(value)}" if isinstance(value, dict) else value
            raise refusal(self.file, field, found, f"exactly the keys {one_of(keys)}")
        return value

    def mapping(self, value: object, field: str, item: Callable[[Any, str], T]) -> dict[str, T]:
        if not isinstance(value, dict):
            raise refusal(self.file, field, value, "an object")
        return {key: item(entry, f"{field}.{key}") for key, entry in value.items()}

    def optional(self, value: object, field: str, parse: Callable[[Any, str], T]) -> T | None:
        return None if value is None else parse(value, field)

    def anything(self, value: object, _field: str) -> Any:
        return value

    def text(self, value: object, field: str) -> str:
        if not isinstance(value, str) or not value.isprintable() or not value:
            raise refusal(self.file, field, value, "printable text")
        return value

    def choice(self, value: object, field: str, allowed: tuple[str, ...]) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise refusal(self.file, field, value, one_of(allowed))
        return value

    def sha256(self, value: object, field: str) -> str:
        digest = self.text(value, field)
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise refusal(self.file, field, digest, "64 lower-case hexadecimal digits")
        return digest

    def integer(self, value: object, field: str, minimum: int, maximum: int = MAX_INT) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
            upper = "" if maximum == MAX_INT else f", at most {maximum}"
            raise refusal(self.file, field, value, f"an integer, at least {minimum}{upper}")
        return value

    def integers(self, value: object, field: str, minimum: int, length: int | None = None) -> tuple[int, ...]:
        if not isinstance(value, list) or length not in (None, len(value)):
            raise refusal(self.file, field, value, f"a list of {length or ''} integers".replace("  ", " "))
        return tuple(self.integer(item, f"{field}[{index}]", minimum) for index, item in enumerate(value))

    def share(self, value: object, field: str) -> float:
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1:
            raise refusal(self.file, field, value, "a number, 0 to 1")
        return float(value)

    def file_entry(self, value: object, field: str) -> FileEntry:
        size, shape = partial(self.integer, minimum=0), partial(self.integers, minimum=1)
        return self.record(FileEntry, value, field, sha256=self.sha256, bytes=size, shape=shape)
