"""The files of one trace: their names, heads and lengths, begun empty or gone on with from a checkpoint."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from traces.format.layout import REQUESTS_FILE, STEP_DTYPE, STEPS_FILE, signal_dtype
from traces.format.manifest import Counts
from traces.format.npy import header_bytes
from traces.format.requests import HEADER_LINE
from traces.kit.whole import JOURNAL
from traces.writing.growing import GrowingFile
from traces.writing.journal import Checkpoint, damaged

NOTHING = Counts(0, 0, 0)


@dataclass(frozen=True)
class Layout:
    """What decides the files but their lengths: E, and the signals with their shapes after the rows."""

    n_experts: int
    trailing: Mapping[str, tuple[int, ...]]

    @property
    def files(self) -> tuple[str, ...]:
        """The names, in the order in which ``trace.json`` lists them."""
        return (REQUESTS_FILE, STEPS_FILE, *(f"{name}.npy" for name in self.trailing))

    def array(self, file: str, counts: Counts) -> tuple[np.dtype, tuple[int, ...]]:
        """Return dtype and shape of the array in ``file`` of a trace with ``counts``."""
        if file == STEPS_FILE:
            return STEP_DTYPE, (counts.steps,)
        name = file.removesuffix(".npy")
        return signal_dtype(name, self.n_experts), (counts.tokens, *self.trailing[name])

    def head(self, file: str, counts: Counts) -> bytes:
        """Return how ``file`` begins; its length does not depend on ``counts``."""
        return HEADER_LINE.encode() if file == REQUESTS_FILE else header_bytes(*self.array(file, counts))

    def begin(self, folder: Path) -> dict[str, GrowingFile]:
        """Make the files in ``folder``, which is empty."""
        return {file: GrowingFile.begin(folder / file, self.head(file, NOTHING)) for file in self.files}

    def resume(self, place: Path, folder: Path, last: Checkpoint) -> dict[str, GrowingFile]:
        """Go on with the files in ``folder`` of the recording in ``place``, cut back to the checkpoint ``last``.

        Nothing there is trusted: raises TraceError where files and journal contradict one another. That takes
        reading all of the files once.
        """
        for file in self.files:
            self._check_mark(place, file, last)
        files: dict[str, GrowingFile] = {}
        try:
            for file in self.files:
                heads = self.head(file, NOTHING), self.head(file, last.counts)
                files[file] = GrowingFile.resume(place, folder / file, last.files[file], heads)
            _check_last_step(place, last.counts, files[STEPS_FILE])
        except BaseException:
            for opened in files.values():
                opened.close()
            raise
        return files

    def _check_mark(self, place: Path, file: str, last: Checkpoint) -> None:
        least = len(self.head(file, NOTHING))
        found, field = last.files[file].bytes, f"{JOURNAL}, files.{file}.bytes"
        if file == REQUESTS_FILE:
            if found < least:
                raise damaged(place, field, found, f"at least {least}")
            return
        dtype, shape = self.array(file, last.counts)
        expected = least + math.prod(shape) * dtype.itemsize
        if found != expected:
            raise damaged(place, field, found, f"{expected}, as its counts say")


def _check_last_step(place: Path, counts: Counts, steps: GrowingFile) -> None:
    """Hold the counts against the last step: no length but that of the text depends on the requests."""
    found = NOTHING
    if counts.steps:
        last = np.frombuffer(steps.tail(STEP_DTYPE.itemsize), STEP_DTYPE)[0]
        found = Counts(int(last["request"]) + 1, counts.steps, int(last["first_row"]) + int(last["rows"]))
    if counts != found:
        raise damaged(place, f"{JOURNAL}, counts", counts, f"{found}, as the last step says")
