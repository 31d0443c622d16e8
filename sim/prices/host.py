"""What an expert costs that the host computes, where its weights lie (policies.costs.Host)."""

from fractions import Fraction

from sim.prices.costs import Affine, Costs, Roofline, Table, find_tables
from sim.prices.measured import Points
from traces.calibrate.tables import pooled
from traces.kit.errors import UserError

BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
"""Of one activation."""


class HostPrices:
    """An expert on one of the host's workers: activations there, its compute, and activations back, in whole ns.

    Compute is the measured table ``cpu_expert`` of this shape, dtype and so many threads, or the longer of its flops at
    a worker's share of the CPU's peak and its bytes at the memory's bandwidth. Activations (tokens x hidden, one copy
    each way) cross an idle link; they are in nobody's way. The memory is shared, and a worker alone has all of it.
    """

    def __init__(self, costs: Costs) -> None:
        hardware, model = costs.hardware, costs.model
        host, measured = hardware.host, hardware.measured
        self.workers, self.dram = host.workers, host.dram_gb_per_s  # 1 GB/s is one byte per nanosecond
        self.source = ""
        """Which table or constants the price is from; "": there is none, and ``lacks`` says what it would take."""
        self.lacks = ""
        self._costs = costs
        self._bytes_per_token = model.hidden * BYTES[model.compute_dtype]
        self._known: dict[tuple[int, int], int] = {}
        self._table: Table | None = None
        self._roofline: Roofline | None = None
        if host.cpu_threads is not None and host.workers > host.cpu_threads:
            raise UserError(f"hardware.host.workers={host.workers}: allowed: at most cpu_threads={host.cpu_threads}")
        name, table, _ = find_tables(model, {} if measured is None else measured.models or {})
        if table is not None and table.dtype == costs.dtype:
            threads, self._table = _row(table.cpu_expert, host.cpu_threads and host.cpu_threads // host.workers)
            self.source = f"table models.{name}.cpu_expert (threads {threads})"
        elif host.dram_gb_per_s is not None and (host.cpu_tflops is not None or not model.expert_params):
            flops_per_ns = (host.cpu_tflops or Fraction(1)) * 1000 / host.workers
            self._roofline = Roofline(1 / flops_per_ns, 1 / host.dram_gb_per_s)
            self.source = "roofline"
        else:
            figures = {"cpu_tflops": host.cpu_tflops, "dram_gb_per_s": host.dram_gb_per_s}
            missing = ", ".join(f"hardware.host.{key}=null" for key, figure in figures.items() if figure is None)
            self.lacks = f"{missing}, and no measured cpu_expert of this shape and dtype"
        link = hardware.link
        self._there: Affine | Table = Affine(link.overhead_us * 1000, 1 / (link.d2h_gb_per_s or link.h2d_gb_per_s))
        if measured is not None:
            self._there = Table(measured.copy_d2h_pinned.axes["bytes"], measured.copy_d2h_pinned.ns)

    def expert_ns(self, layer: int, tokens: int) -> int:
        """One expert of ``layer`` on ``tokens`` tokens by one worker, alone."""
        found = self._known.get((layer, tokens))
        if found is None:
            found = self._known[layer, tokens] = self.compute_ns(layer, tokens) + self.activations_ns(tokens)
        return found

    def compute_ns(self, layer: int, tokens: int) -> int:
        """Without its activations' way."""
        if self._table is not None:
            return self._table.ns(tokens)
        assert self._roofline is not None
        nbytes = self._costs.expert_bytes[layer]
        return self._roofline.ns(2 * self._costs.model.expert_params * tokens, nbytes) if tokens else 0

    def activations_ns(self, tokens: int) -> int:
        """Their way there and back, each a copy call with its overheads."""
        nbytes = tokens * self._bytes_per_token
        return self._there.ns(nbytes) + self._costs.copy_overhead_ns + self._costs.copy_ns(nbytes)


def _row(points: Points, threads: int | None) -> tuple[int, Table]:
    """The row of the most threads that are measured and at hand (None: all that are measured); and how many."""
    measured = sorted(set(points.axes["threads"]))
    chosen = max((n for n in measured if threads is None or n <= threads), default=measured[0])
    rows = zip(points.axes["threads"], points.axes["tokens"], points.ns, strict=True)
    tokens, ns = zip(*sorted((n, ns) for at, n, ns in rows if at == chosen), strict=True)
    return chosen, Table(tokens, pooled(ns))
