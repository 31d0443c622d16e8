"""A disk below host memory: what reading an expert from it takes, in whole nanoseconds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import Annotated, Any

from sim.prices.curves import Affine, Table, ceil
from traces.kit.errors import UserError
from traces.kit.readers import Delay, Threads, nullable, number, refusal, whole
from traces.kit.units import parse_bytes

LONGEST_READ = 2**40
"""Bytes of one read, beyond which a point of a table is a slip."""
MOST_READS = 64
AUTO = "auto"
Bandwidth = Fraction | dict[int, Fraction]


def _bandwidth(value: Any, where: str) -> Bandwidth:
    """One figure, or figures by the bytes of a read."""
    if not isinstance(value, Mapping):
        found: Fraction = number()(value, where)
        return found
    if not value:
        raise refusal(value, where, "GB/s, or a mapping of the bytes of a read to GB/s, {4096: 0.03, 8388608: 4}")
    points = {_size(key, where): number()(value[key], f"{where}.{key}") for key in value}
    found_by_size = dict(sorted(points.items()))
    for (small, slow), (large, fast) in pairwise(found_by_size.items()):
        if large / fast < small / slow:
            allowed = f"at most {float(slow * large / small):g}, so that {large} bytes take no less than {small}"
            raise refusal(float(fast), f"{where}.{large}", allowed)
    return found_by_size


def _size(key: Any, where: str) -> int:
    """Of a read; as text, too, as words and JSON have keys."""
    found: int = whole(1, LONGEST_READ)(
        int(key) if isinstance(key, str) and key.isdecimal() else key, f"{where} (bytes)"
    )
    return found


def _page_cache(value: Any, where: str) -> int | str:
    """Bytes, as text, too; 0 for null; or AUTO."""
    if value is None or value == AUTO or (value == 0 and value is not False):
        return AUTO if value == AUTO else 0
    try:
        return parse_bytes(value, where)
    except UserError as error:
        raise UserError(f"{error}, 0 (none), or auto: what host_memory= leaves of hardware.host.memory_bytes") from None


@dataclass(frozen=True, kw_only=True)
class Disk:
    """From disk to host memory. A read takes its latency and its bytes at the bandwidth of reads of its size."""

    gb_per_s: Annotated[Bandwidth, _bandwidth]
    """Of reads of any size, or by bytes; of one lane while all are busy. Figures that were measured with single reads
    have the latency within."""
    latency_us: Delay  # per read, on top of that
    lanes: Threads = 1  # chunks that are read at once, each at the rate above
    reads_per_expert: Annotated[int, whole(1, MOST_READS)] = 1
    """1: an expert lies in one piece; 3: its gate, up and down matrices lie apart."""
    page_cache: Annotated[int | str, _page_cache] = 0
    """Bytes of the operating system's cache of what was read; 0: none; AUTO: what the host has left for it."""
    page_cache_gb_per_s: Annotated[Fraction | None, nullable(number())] = None
    """Of one lane while all are busy, out of the page cache; null: inferred (DiskPrices.cached_gb_per_s)."""


class DiskPrices:
    """Whole nanoseconds of the reads of one expert's chunks.

    Durations are lines between the points of a table, as all measured ones are (:class:`sim.prices.curves.Table`).
    """

    def __init__(self, disk: Disk) -> None:
        self.disk, latency_ns = disk, disk.latency_us * 1000
        self._latency_ns = -(-latency_ns.numerator // latency_ns.denominator)
        if isinstance(disk.gb_per_s, dict):
            ns = [ceil(nbytes / rate) for nbytes, rate in disk.gb_per_s.items()]
            self._curve: Affine | Table = Table([*disk.gb_per_s], ns)
        else:
            self._curve = Affine(Fraction(0), 1 / disk.gb_per_s)

    def read_ns(self, nbytes: int) -> int:
        """One read of so many bytes."""
        return self._latency_ns + self._curve.ns(nbytes) if nbytes else 0

    def chunks_ns(self, chunk_bytes: Sequence[int]) -> list[int]:
        """Of each chunk of an expert, which is cut into these.

        A chunk takes a read for each piece of the expert (``reads_per_expert``) of which it has a part, one after the
        other.
        """
        total, pieces = sum(chunk_bytes), self.disk.reads_per_expert
        cuts = [total * i // pieces for i in range(pieces + 1)]
        ends = [0, *accumulate(chunk_bytes)]
        return [
            sum(self.read_ns(max(0, min(end, b) - max(begin, a))) for a, b in pairwise(cuts))
            for begin, end in pairwise(ends)
        ]

    def cached_gb_per_s(self, dram_gb_per_s: Fraction | None) -> Fraction | None:
        """Of one lane out of the page cache: as the profile says, or inferred from the host's memory, of which all
        lanes together get half, as a copy reads and writes it. None: nothing is known.

        An upper limit: a thread alone reaches less of a fast memory.
        """
        if self.disk.page_cache_gb_per_s is not None or dram_gb_per_s is None:
            return self.disk.page_cache_gb_per_s
        return dram_gb_per_s / 2 / self.disk.lanes

    def floor_ns(self, nbytes: int) -> int:
        """At most how long all lanes together read `nbytes`, however they are cut: every read at the best rate."""
        return self._curve.floor_ns(nbytes) // self.disk.lanes
