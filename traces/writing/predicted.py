"""Write a predictor's outputs beside a trace: checked as they come, and there whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from traces.format.check import check_outputs
from traces.format.layout import MANIFEST_FILE, PREDICTED, Array, ids_dtype
from traces.format.npy import descr_of, header_bytes
from traces.format.predicted import (
    ABOUT_FILE,
    IDS_FILE,
    SPLITS,
    TIMING_FILE,
    About,
    Predicted,
    check_about,
    check_name,
    file_of,
    open_one,
)
from traces.format.reader import Trace
from traces.kit.errors import UserError, refusal
from traces.kit.fields import FileEntry
from traces.kit.strict import dump_json
from traces.kit.whole import whole


def write_predicted(
    trace: Trace,
    blocks: Iterable[Array],
    *,
    name: str,
    kind: str,
    input: str,  # noqa: A002 - the word of the format
    stride: int,
    top_k: int,
    fit: Mapping[str, Any],
    timing: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Predicted:
    """Write ``predicted/NAME/`` into the trace's folder; returns it, opened.

    ``blocks``: consecutive rows of the outputs, [n, L, K'] each, of any integer dtype; all N rows in all. The accuracy
    is counted here. Raises TraceError for what the format does not allow, and UserError where NAME exists, unless
    ``overwrite``, which replaces it as a whole (see traces.kit.whole).
    """
    refuse_existing(trace, name, overwrite=overwrite)
    home = trace.path / PREDICTED / name
    try:
        home.parent.mkdir(exist_ok=True)
        with whole(home, over=True) as part:
            part.mkdir()
            tally = _Tally(trace, stride)
            entry = _write_ids(part / IDS_FILE, blocks, trace, name, stride, top_k, tally)
            about = About(name, kind, input, stride, top_k, trace.sha256, dict(fit), tally.accuracy()).to_json(entry)
            check_about(about, name, trace.manifest, trace.sha256)  # else nobody could read the trace any more
            (part / ABOUT_FILE).write_bytes(about)
            if timing is not None:
                (part / TIMING_FILE).write_text(dump_json(dict(timing)))
            refuse_existing(trace, name, overwrite=overwrite)
    except OSError as error:
        raise UserError(
            f"{home}: {error.strerror}; allowed: a trace in a folder that can be written, on a disk with room"
        ) from None
    return open_one(trace.path, name, trace.manifest, trace.sha256)


def refuse_existing(trace: Trace, name: str, *, overwrite: bool) -> None:
    """Refuse a name that cannot be one, or is taken: before hours of fitting rather than after them."""
    check_name(name)
    if os.path.lexists(trace.path / PREDICTED / name) and not overwrite:
        raise UserError(f"{trace.path / PREDICTED / name}: exists already; allowed: another name=, or overwrite=true")


def _write_ids(
    path: Path, blocks: Iterable[Array], trace: Trace, name: str, stride: int, top_k: int, tally: _Tally
) -> FileEntry:
    dtype, shape = ids_dtype(trace.E), (trace.N, trace.L, top_k)
    file, first = file_of(name, IDS_FILE), 0
    digest = hashlib.sha256(head := header_bytes(dtype, shape))
    with path.open("wb") as stream:
        stream.write(head)
        for given in blocks:
            block = np.asarray(given)
            if block.dtype.kind not in "ui" or block.shape[1:] != shape[1:] or first + len(block) > trace.N:
                raise refusal(
                    file, "block", f"{block.dtype} {block.shape}", f"integers [n, {trace.L}, {top_k}], N in all"
                )
            check_outputs(file, block, trace.E, stride, first)
            block = block.astype(dtype)
            tally.add(block, first)
            raw = block.tobytes()
            digest.update(raw)
            stream.write(raw)
            first += len(block)
        size = stream.tell()
    if first != trace.N:
        raise refusal(file, "rows", first, f"{trace.N}, as in {MANIFEST_FILE}")
    return FileEntry(digest.hexdigest(), size, descr_of(dtype), shape)


class _Tally:
    """Counts, by split and layer, what was named and what of it was used."""

    def __init__(self, trace: Trace, stride: int) -> None:
        self.trace, self.stride = trace, stride
        split_of = np.array([SPLITS.index(request.split or "all") for request in trace.requests])
        self.split = np.repeat(split_of[trace.steps["request"]], trace.steps["rows"])  # [N]
        self.named, self.used = (np.zeros((len(SPLITS), trace.L), np.int64) for _ in range(2))

    def add(self, block: Array, first: int) -> None:
        split = self.split[first : first + len(block)]
        for layer in range(self.trace.L - self.stride):
            said = block[:, layer]
            used = np.asarray(self.trace.expert_ids[first : first + len(block), layer + self.stride])
            present = said != self.trace.absent
            right = present & (said[:, :, None] == used[:, None, :]).any(axis=-1)
            for index in range(len(SPLITS)):
                rows = (split == index) | (SPLITS[index] == "all")
                self.named[index, layer] += present[rows].sum()
                self.used[index, layer] += right[rows].sum()

    def accuracy(self) -> dict[str, tuple[float | None, ...] | None]:
        """The shares; None for a split without requests."""
        found: dict[str, tuple[float | None, ...] | None] = {}
        for split, named, used in zip(SPLITS, self.named.tolist(), self.used.tolist(), strict=True):
            shares = tuple(u / n if n else None for n, u in zip(named, used, strict=True))
            found[split] = shares if any(named) else None
        return found
