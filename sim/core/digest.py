"""The hash of all decisions: two cores that decided alike, in the same order, have the same one."""

from __future__ import annotations

import hashlib
from array import array

_FLUSH = 1 << 16


class Digest:
    """Collects whole numbers in ``answers`` and hashes them in blocks; the list is never rebound."""

    __slots__ = ("_hash", "answers")

    def __init__(self) -> None:
        self.answers: list[int] = []
        self._hash = hashlib.blake2b(digest_size=16)

    def flush(self, at_least: int = _FLUSH) -> None:
        """Hash what has been collected, if it is ``at_least`` so much."""
        if len(self.answers) >= at_least:
            self._hash.update(array("q", self.answers).tobytes())
            self.answers.clear()

    def hexdigest(self) -> str:
        """The digest of everything so far."""
        self.flush(0)
        return self._hash.hexdigest()
