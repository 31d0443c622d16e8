"""Write a trace request by request, in memory that does not grow with it; it appears whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike

from traces.check import check_rows, check_steps
from traces.errors import TraceError, one_of
from traces.format import (
    MANIFEST_FILE,
    MAX_EXPERTS,
    REQUESTS_FILE,
    SIGNALS,
    STEP_DTYPE,
    STEPS_FILE,
    Array,
    Request,
    absent_id,
    check_trailing,
    refusal,
    signal_dtype,
)
from traces.manifest import Counts, FileEntry, Manifest, Model, Prompts, Recorder, parse_manifest
from traces.npy import descr_of, header_bytes
from traces.reader import hash_stream
from traces.requests import HEADER_LINE, format_request


class TraceWriter:
    """Write a trace into a new folder ``path``::

        with TraceWriter(path, n_layers=16, n_experts=64, top_k=8, signals={"token_ids": ()}) as out:
            out.add_request(
                request, steps=[(PREFILL, 5, 0), (DECODE, 1, 5)], expert_ids=ids, token_ids=tokens
            )
            out.close(name="OLMoE", recorder=Recorder("collect", "0.1", "cpu"), ...)

    ``signals`` names the optional arrays with their shapes after the rows, e.g. ``{"token_ids": (),
    "hidden": (L, D')}``; their dtypes are the format's. Each request is checked as it comes, so what was
    written also opens. The folder is built under a temporary name beside ``path`` and renamed by close(); it
    is removed if the block ends otherwise. Raises TraceError where ``path`` exists or a value breaks the
    format.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        n_layers: int,
        n_experts: int,
        top_k: int,
        signals: Mapping[str, tuple[int, ...]] | None = None,
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
        if os.path.lexists(self.path):
            raise TraceError(f"{self.path}: exists already; allowed: a folder that is yet to be made")
        if not self.path.parent.is_dir():
            raise TraceError(f"{self.path.parent}: no such folder; allowed: an existing one for the trace to lie in")
        self.absent = absent_id(n_experts)
        self._counts = Counts(0, 0, 0)
        self._dtypes = {name: signal_dtype(name, n_experts) for name in self._trailing}
        self._folder = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.partial")
        try:
            self._folder.mkdir()
        except OSError as error:
            raise TraceError(f"{self.path}: {error.strerror}; allowed: a place that can be written") from None
        self._streams: dict[str, BinaryIO] = {}
        for name in (REQUESTS_FILE, STEPS_FILE, *(f"{signal}.npy" for signal in self._trailing)):
            self._streams[name] = (self._folder / name).open("w+b")
            self._streams[name].write(self._head(name))

    def add_request(
        self,
        request: Request,
        *,
        steps: Sequence[tuple[int, int, int]],
        expert_ids: ArrayLike,
        **signals: ArrayLike,
    ) -> None:
        """Append one request: its steps as (phase, rows, context), and n rows of every declared signal.

        Requests come in order, numbered from 0. Ids may be of any integer dtype, with ``writer.absent`` for
        absent entries; floats are rounded to float16, and what overflows there is refused. Raises TraceError.
        """
        given = {"expert_ids": expert_ids, **signals}
        if set(given) != set(self._trailing):
            raise refusal(
                f"request {request.request}",
                "signals",
                one_of(given),
                f"as declared: {one_of(self._trailing)}",
            )
        if request.request != self._counts.requests:
            raise refusal(REQUESTS_FILE, "request", request.request, f"{self._counts.requests}, the next number")
        table = self._table(request, steps)
        rows = int(table["rows"].sum(dtype=np.int64))
        first = self._counts.tokens
        check_steps([request], table, first, rows)
        arrays = {name: self._convert(name, np.asarray(values), rows) for name, values in given.items()}
        check_rows(arrays, self._sizes["n_experts"], first)

        self._streams[REQUESTS_FILE].write(format_request(request).encode())
        self._streams[STEPS_FILE].write(table.tobytes())
        for name, array in arrays.items():
            self._streams[f"{name}.npy"].write(array.tobytes())
        self._counts = Counts(request.request + 1, self._counts.steps + len(table), first + rows)

    def close(
        self,
        *,
        name: str,
        recorder: Recorder,
        decoding: Mapping[str, Any],
        recording: str,
        prompts: Prompts,
        revision: str | None = None,
        expert_bytes: Sequence[int] | None = None,
        shapes: Mapping[str, int] | None = None,
        dtype: str | None = None,
        scoring: str | None = None,
        priced_as: str | None = None,
    ) -> Path:
        """Write ``trace.json`` and give the folder its name; returns the path.

        ``expert_bytes``: bytes of one expert, per layer. ``decoding`` needs "mode": greedy, sampled,
        teacher_forced or unknown; ``recording``: recorded or synthetic. Raises TraceError for a trace without
        requests or a field the format does not allow.
        """
        if not self._counts.requests:
            raise refusal(REQUESTS_FILE, "number of requests", 0, "at least 1")
        model = Model(
            name,
            revision,
            **self._sizes,
            expert_bytes=None if expert_bytes is None else tuple(int(size) for size in expert_bytes),
            shapes=None if shapes is None else dict(shapes),
            dtype=dtype,
            scoring=scoring,
        )
        files = {file: self._finish(file) for file in list(self._streams)}
        manifest = Manifest(model, recorder, dict(decoding), recording, prompts, priced_as, self._counts, files)
        raw = manifest.to_json()
        parse_manifest(raw)
        (self._folder / MANIFEST_FILE).write_bytes(raw)
        # A rename replaces an empty folder without a word.
        if os.path.lexists(self.path):
            raise TraceError(f"{self.path}: exists already; allowed: a folder that is yet to be made")
        self._folder.rename(self.path)
        return self.path

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in self._streams.values():
            stream.close()
        if self._folder.exists():
            shutil.rmtree(self._folder)
            if kind is None:
                raise RuntimeError("a TraceWriter was left without close(): nothing was written")

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
        dtype, shape = self._dtypes[name], (rows, *self._trailing[name])
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

    def _head(self, file: str) -> bytes:
        return HEADER_LINE.encode() if file == REQUESTS_FILE else header_bytes(*self._layout(file))

    def _layout(self, file: str) -> tuple[np.dtype, tuple[int, ...]]:
        if file == STEPS_FILE:
            return STEP_DTYPE, (self._counts.steps,)
        name = file.removesuffix(".npy")
        return self._dtypes[name], (self._counts.tokens, *self._trailing[name])

    def _finish(self, file: str) -> FileEntry:
        """Put the final shape into the header, whose length does not depend on it, and hash the file."""
        stream = self._streams.pop(file)
        with stream:
            stream.seek(0)
            stream.write(self._head(file))
            size = stream.seek(0, os.SEEK_END)
            stream.seek(0)
            digest = hash_stream(stream)
        if file == REQUESTS_FILE:
            return FileEntry(digest, size, None, None)
        dtype, shape = self._layout(file)
        return FileEntry(digest, size, descr_of(dtype), shape)
