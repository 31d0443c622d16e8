"""Write a trace request by request, in memory that does not grow with it; it appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike

from traces.format.check import check_rows, check_steps
from traces.format.layout import (
    MANIFEST_FILE,
    MAX_EXPERTS,
    REQUESTS_FILE,
    SCHEMA,
    SIGNALS,
    STEP_DTYPE,
    STEPS_FILE,
    Array,
    Request,
    absent_id,
    check_trailing,
    signal_dtype,
)
from traces.format.manifest import OF_MODEL, About, Counts, Manifest, Model, parse_manifest
from traces.format.npy import descr_of
from traces.format.requests import format_request
from traces.kit.errors import TraceError, one_of, refusal
from traces.kit.fields import FileEntry
from traces.writing.growing import NOTHING, GrowingFile, Layout
from traces.writing.journal import Checkpoint
from traces.writing.workplace import Partial, Scratch


class TraceWriter:
    """Write a trace into a new folder ``path``::

        with TraceWriter(path, n_layers=16, n_experts=64, top_k=8, signals={"token_ids": ()}) as out:
            out.add_request(request, steps=[(PREFILL, 5, 0), (DECODE, 1, 5)], expert_ids=ids, token_ids=tokens)
            out.close(name="OLMoE", recorder=Recorder("collect", "0.1", "cpu"), ...)

    ``signals`` names the optional arrays with their shapes after the rows, e.g. ``{"token_ids": (), "hidden": (L,
    D')}``; their dtypes are the format's. Each request is checked as it comes, so what was written also opens. The
    folder is built under a temporary name beside ``path`` and renamed by close(); it is removed if the block ends
    otherwise. Raises TraceError where ``path`` exists or a value breaks the format.

    With a ``recipe``, the JSON-able facts that determine the trace, the folder in the making is ``.NAME.partial``, and
    what came before the last checkpoint() outlives the process: whoever gives the same recipe, sizes and signals again
    goes on with request number ``writer.requests``, and the finished trace is the same byte for byte. Rows after the
    checkpoint are cut off, never read. Without any checkpoint the folder is removed as above. Raises TraceError also
    where the recording was begun from another recipe (it names the first key that differs), is damaged, or is held by
    another process. See traces.writing.workplace.Partial.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        n_layers: int,
        n_experts: int,
        top_k: int,
        signals: Mapping[str, tuple[int, ...]] | None = None,
        recipe: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        self._sizes = {"n_layers": n_layers, "n_experts": n_experts, "top_k": top_k}
        for key, value in self._sizes.items():
            limit = {"n_layers": MAX_EXPERTS, "n_experts": MAX_EXPERTS, "top_k": n_experts}[key]
            if not 1 <= value <= limit:
                raise refusal(MANIFEST_FILE, f"model.{key}", value, f"an integer, 1 to {limit}")
        self._trailing = {"expert_ids": (n_layers, top_k), **(signals or {})}
        for name, shape in self._trailing.items():
            if name not in SIGNALS:
                raise refusal(MANIFEST_FILE, "signal", name, one_of(SIGNALS))
            check_trailing(f"{name}.npy", name, tuple(shape), n_layers, n_experts, top_k)
        self.absent = absent_id(n_experts)
        self._layout = Layout(n_experts, self._trailing)
        self._files: dict[str, GrowingFile] = {}
        self._open, self._whole = True, True
        facts = {"format": SCHEMA, **self._sizes, "signals": self._trailing, "recipe": recipe}
        self._place = Scratch(self.path) if recipe is None else Partial(self.path, facts, self._layout.files)
        last, folder = self._place.last, self._place.folder
        self._sure, self._counts = last is not None, NOTHING if last is None else last.counts
        try:
            with self._writing():
                self._files = self._layout.resume(folder.parent, folder, last) if last else self._layout.begin(folder)
        except BaseException:
            self._leave()
            raise

    @property
    def requests(self) -> int:
        """How many requests it holds, which is the number of the next one."""
        return self._counts.requests

    @property
    def tokens(self) -> int:
        return self._counts.tokens

    def add_request(
        self, request: Request, *, steps: Sequence[tuple[int, int, int]], expert_ids: ArrayLike, **signals: ArrayLike
    ) -> None:
        """Append one request: its steps as (phase, rows, context), and n rows of every declared signal.

        Requests come in order, numbered from 0. Ids may be of any integer dtype, with ``writer.absent`` for
        absent entries; floats are rounded to float16, and what overflows there is refused. Raises TraceError.
        """
        self._require_whole()
        given = {"expert_ids": expert_ids, **signals}
        if set(given) != set(self._trailing):
            declared = f"as declared: {one_of(self._trailing)}"
            raise refusal(f"request {request.request}", "signals", one_of(given), declared)
        if request.request != self._counts.requests:
            raise refusal(REQUESTS_FILE, "request", request.request, f"{self._counts.requests}, the next number")
        table = self._table(request, steps)
        rows = int(table["rows"].sum(dtype=np.int64))
        first = self._counts.tokens
        check_steps([request], table, first, rows)
        arrays = {name: self._convert(name, np.asarray(values), rows) for name, values in given.items()}
        check_rows(arrays, self._sizes["n_experts"], first)

        with self._writing():
            self._files[REQUESTS_FILE].append(format_request(request).encode())
            self._files[STEPS_FILE].append(table.tobytes())
            for name, array in arrays.items():
                self._files[f"{name}.npy"].append(array.tobytes())
            self._counts = Counts(request.request + 1, self._counts.steps + len(table), first + rows)

    def checkpoint(self) -> None:
        """Make what was added so far outlive the process, and the machine's power; only with a recipe.

        It waits for the disk, some milliseconds or, with much unwritten, seconds.
        """
        if not isinstance(self._place, Partial):
            raise RuntimeError("checkpoint() of a TraceWriter that was given no recipe")
        self._require_whole()
        with self._writing():
            self._place.save(Checkpoint(self._counts, {name: file.sync() for name, file in self._files.items()}))
            self._sure = True

    def check(self, **about: Unpack[About]) -> None:
        """Raise TraceError now for what close() would refuse of the same arguments, perhaps hours later."""
        nobody = FileEntry("0" * 64, 0, None, None)
        self._manifest(Counts(1, 1, 1), dict.fromkeys(self._files, nobody), about)

    def close(self, **about: Unpack[About]) -> Path:
        """Write ``trace.json`` and give the folder its name; returns the path.

        ``expert_bytes``: bytes of one expert, per layer; ``dense_bytes``: as in Model. ``decoding`` needs "mode":
        greedy, sampled, teacher_forced or unknown; ``recording``: recorded or synthetic. Raises TraceError for a trace
        without requests or a field the format does not allow. With a recipe it makes a checkpoint first, and may be
        killed anywhere: the same command then goes on, unless the trace is there.
        """
        self._require_whole()
        if not self._counts.requests:
            raise refusal(REQUESTS_FILE, "number of requests", 0, "at least 1")
        if isinstance(self._place, Partial):
            self.checkpoint()
        with self._writing():
            files = {file: self._finish(file) for file in self._files}
            self._place.publish(self._manifest(self._counts, files, about))
        self._open = self._whole = False
        return self.path

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._open:
            return
        self._leave()
        if kind is None:
            kept = "what follows the last checkpoint is lost" if self._sure else "nothing was written"
            raise RuntimeError(f"a TraceWriter was left without close(): {kept}")

    def _leave(self) -> None:
        """Give up the folder; what was sure in it stays."""
        self._open = self._whole = False
        for file in self._files.values():
            file.close()
        if self._sure:
            self._place.release()
        else:
            self._place.discard()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Take nothing more if what is done within is cut off; TraceError where the disk refuses it."""
        self._whole = False
        try:
            yield
        except OSError as error:
            kept = "what the last checkpoint holds is kept" if self._sure else "nothing is kept"
            why = f"{self.path} cannot be written ({error.strerror or error}), {kept}"
            raise TraceError(f"{why}; allowed: a disk with room, a folder that can be written") from error
        self._whole = True

    def _require_whole(self) -> None:
        if not self._whole:
            raise RuntimeError("a TraceWriter that was closed, or whose writing failed, takes nothing more")

    def _table(self, request: Request, steps: Sequence[tuple[int, int, int]]) -> Array:
        phases, rows, contexts = np.array(steps, np.int64).reshape(-1, 3).T
        if np.any(np.abs([phases, rows, contexts]) >= 2**31) or np.any((phases < 0) | (phases > 1)):
            raise refusal(STEPS_FILE, f"steps of request {request.request}", steps, "(0 or 1, rows, context)")
        table = np.zeros(len(phases), STEP_DTYPE)
        table["request"], table["phase"] = request.request, phases
        table["rows"], table["context"] = rows, contexts
        table["first_row"] = self._counts.tokens + np.cumsum(rows) - rows
        return table

    def _convert(self, name: str, values: Array, rows: int) -> Array:
        """Return ``values`` in the format's dtype; what the dtype cannot hold is refused, never wrapped."""
        dtype, shape = signal_dtype(name, self._sizes["n_experts"]), (rows, *self._trailing[name])
        if values.shape != shape:
            raise refusal(f"{name}.npy", "shape of the request's rows", values.shape, f"{shape}")
        if dtype.kind == "f":
            with np.errstate(over="ignore"):
                return values.astype(dtype)
        if values.dtype.kind not in "ui":
            raise refusal(f"{name}.npy", "dtype", values.dtype, "integers")
        limits = np.iinfo(dtype)
        if values.min() < limits.min or values.max() > limits.max:
            worst = values.max() if values.max() > limits.max else values.min()
            raise refusal(f"{name}.npy", "value", worst, f"{limits.min} to {limits.max}")
        return values.astype(dtype)

    def _manifest(self, counts: Counts, files: Mapping[str, FileEntry], about: About) -> bytes:
        """Return the bytes of ``trace.json``, which open; raises TraceError."""
        rest: dict[str, Any] = {"priced_as": None, **about, "decoding": dict(about["decoding"])}
        said = {key: rest.pop(key, None) for key in ("name", *OF_MODEL)}
        for key in ("expert_bytes", "dense_bytes"):
            said[key] = None if said[key] is None else [int(size) for size in said[key]]
        model = Model(**{**said, **self._sizes})
        raw = Manifest(model, counts=counts, files=files, **rest).to_json()
        parse_manifest(raw)
        return raw

    def _finish(self, file: str) -> FileEntry:
        """Put the final shape into the header, whose length does not depend on it, and hash the file."""
        digest, size = self._files[file].finish(self._layout.head(file, self._counts))
        if file == REQUESTS_FILE:
            return FileEntry(digest, size, None, None)
        dtype, shape = self._layout.array(file, self._counts)
        return FileEntry(digest, size, descr_of(dtype), shape)
