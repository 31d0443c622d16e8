"""The hash of all decisions: two cores that decided alike, in the same order, have the same one."""

import hashlib
from array import array

_FLUSH = 1 << 16


class Digest(list[int]):
    """The answers given so far, whole numbers, which are hashed in blocks."""

    __slots__ = ("_hash",)

    def __init__(self) -> None:
        super().__init__()
        self._hash = hashlib.blake2b(digest_size=16)

    def flush(self, at_least: int = _FLUSH) -> None:
        """Hash what has been collected, if it is ``at_least`` so much."""
        if len(self) >= at_least:
            self._hash.update(array("q", self).tobytes())
            self.clear()

    def hexdigest(self) -> str:
        """The digest of everything so far."""
        self.flush(0)
        return self._hash.hexdigest()
