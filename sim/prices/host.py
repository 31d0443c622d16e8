"""What an expert costs that the host computes, where its weights lie (policies.costs.Host)."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial

from sim.prices.costs import Affine, Costs, Roofline, Table, find_tables
from sim.prices.measured import Points
from sim.prices.peers import ACTIVATION_BYTES
from traces.calibrate.tables import pooled
from traces.kit.errors import UserError


class HostPrices:
    """An expert on one of the host's workers: activations there, its compute, and activations back, in whole ns.

    Compute is the measured table ``cpu_expert`` of this shape, dtype and so many threads, or the longer of its flops at
    a worker's share of the CPU's peak and its bytes at the memory's bandwidth. Activations (tokens x hidden, one copy
    each way) cross an idle link; they are in nobody's way. The memory is shared, and a worker alone has all of it.
    """

    def __init__(self, costs: Costs, compute: Sequence[Callable[[int], int]], source: str) -> None:
        hardware = costs.hardware
        link, measured = hardware.link, hardware.measured
        self.workers, self.dram = hardware.host.workers, hardware.host.dram_gb_per_s  # 1 GB/s is 1 byte per ns
        self.source = source
        """Which table or constants compute is from."""
        self._costs, self._compute = costs, compute
        self._bytes_per_token = costs.model.hidden * ACTIVATION_BYTES[costs.model.compute_dtype]
        self._known: dict[tuple[int, int], int] = {}
        self._there: Affine | Table = Affine(link.overhead_us * 1000, 1 / (link.d2h_gb_per_s or link.h2d_gb_per_s))
        if measured is not None:
            self._there = Table(measured.copy_d2h_pinned.axes["bytes"], measured.copy_d2h_pinned.ns)

    def expert_ns(self, layer: int, tokens: int) -> int:
        """One expert of ``layer`` on ``tokens`` tokens by one worker, alone."""
        found = self._known.get((layer, tokens))
        if found is None:
            ns = self._compute[layer](tokens) + self.activations_ns(tokens)
            found = self._known[layer, tokens] = ns
        return found

    def together(self, layer: int) -> tuple[Fraction, Fraction]:
        """Bytes per ns of the link (an expert in one copy, on all lanes) and of all workers, on one token each, while
        both are busy: their rates alone, scaled down to what the memory gives."""
        nbytes = self._costs.expert_bytes[layer]
        link = Fraction(self._costs.hardware.link.lanes * nbytes, self._costs.copy_ns(nbytes))
        host = Fraction(self.workers * nbytes, self.expert_ns(layer, 1))
        share = Fraction(1) if self.dram is None else min(Fraction(1), self.dram / (link + host))
        return link * share, host * share

    def activations_ns(self, tokens: int) -> int:
        """Their way there and back, each a copy call with its overheads."""
        nbytes = tokens * self._bytes_per_token
        return self._there.ns(nbytes) + self._costs.copy_overhead_ns + self._costs.copy_ns(nbytes)


def host_of(costs: Costs) -> HostPrices | None:
    """The prices of a machine's host; None where its profile has neither a table nor peak and bandwidth.

    UserError for more workers than threads.
    """
    hardware, model = costs.hardware, costs.model
    host, measured = hardware.host, hardware.measured
    if host.cpu_threads is not None and host.workers > host.cpu_threads:
        raise UserError(f"hardware.host.workers={host.workers}: allowed: at most cpu_threads={host.cpu_threads}")
    name, table, _ = find_tables(model, {} if measured is None else measured.models or {})
    if table is not None and table.dtype == costs.dtype:
        threads, row = _row(table.cpu_expert, host.cpu_threads and host.cpu_threads // host.workers)
        return HostPrices(costs, [row.ns] * model.moe_layers, f"table models.{name}.cpu_expert (threads {threads})")
    if host.dram_gb_per_s is None or (host.cpu_tflops is None and model.expert_params):
        return None
    # Without parameters there are no flops: bytes over bandwidth.
    flops_per_ns = Fraction(1) if host.cpu_tflops is None else host.cpu_tflops * 1000 / host.workers
    roofline = Roofline(1 / flops_per_ns, 1 / host.dram_gb_per_s)
    flops = 2 * model.expert_params
    by_layer = [partial(_roofline_ns, roofline, flops, nbytes) for nbytes in costs.expert_bytes]
    return HostPrices(costs, by_layer, "roofline")


def _roofline_ns(roofline: Roofline, flops_per_token: int, nbytes: int, tokens: int) -> int:
    return roofline.ns(flops_per_token * tokens, nbytes) if tokens else 0


def _row(points: Points, threads: int | None) -> tuple[int, Table]:
    """The row of the most threads that are measured and at hand (None: all that are measured); and how many."""
    measured = sorted(set(points.axes["threads"]))
    chosen = max((n for n in measured if threads is None or n <= threads), default=measured[0])
    rows = zip(points.axes["threads"], points.axes["tokens"], points.ns, strict=True)
    tokens, ns = zip(*sorted((n, ns) for at, n, ns in rows if at == chosen), strict=True)
    return chosen, Table(tokens, pooled(ns))
