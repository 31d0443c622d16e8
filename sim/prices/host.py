"""What an expert costs that the host computes, where its weights lie (policies.costs.Host)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

from sim.prices.costs import Costs, find_tables
from sim.prices.curves import Affine, Roofline, Table
from sim.prices.measured import MeasuredModel, Pair
from sim.prices.peers import ACTIVATION_BYTES
from traces.calibrate.tables import pooled
from traces.kit.errors import UserError
from traces.kit.units import counted


@dataclass(frozen=True)
class Both:
    """A copy and an expert on the host, of so many bytes each, while both are busy."""

    nbytes: int
    copy_ns: int
    cpu_ns: int
    source: str


class HostPrices:
    """An expert on one of the host's workers: activations there, its compute, and activations back, in whole ns.

    Compute is the measured table ``cpu_expert`` of this shape, dtype and so many threads, or the longer of its flops at
    a worker's share of the CPU's peak and its bytes at the memory's bandwidth. Activations (tokens x hidden, one copy
    each way) cross an idle link; they are in nobody's way. The memory is shared, and a worker alone has all of it.

    What link and one worker reach while both are busy is measured, too, where the profile has a ``pair`` of this shape,
    dtype and so many threads. It is of one expert at a time, so that several workers are modelled. Where the profile
    has no bandwidth of the memory, it is what both got from it together: two readers who would have liked more got
    that much, and where they would not, nobody is in another's way at that bandwidth either.
    """

    def __init__(
        self, costs: Costs, compute: Sequence[Callable[[int], int]], source: str, pair: Both | None = None
    ) -> None:
        """``pair``: what was measured on as many threads as all workers have."""
        hardware = costs.hardware
        link, measured = hardware.link, hardware.measured
        self.workers, self.dram = hardware.host.workers, hardware.host.dram_gb_per_s  # 1 GB/s is 1 byte per ns
        if self.dram is None and pair is not None:
            self.dram = Fraction(pair.nbytes, pair.copy_ns) + Fraction(pair.nbytes, pair.cpu_ns)
        self._pair = pair if self.workers == 1 else None
        self.source = source if self._pair is None else f"{source}; both at once: {self._pair.source}"
        """Which table or constants compute is from; and which table, if one, what both reach while both are busy."""
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

    def alone(self, layer: int) -> tuple[Fraction, Fraction]:
        """Bytes per ns of the link (an expert in one copy, on all lanes) and of all workers, on one token each, as far
        as the memory gives them."""
        link, host = self._wanted(layer)
        return (link, host) if self.dram is None else (min(link, self.dram), min(host, self.dram))

    def together(self, layer: int) -> tuple[Fraction, Fraction]:
        """The same while both are busy: as measured, or what all lanes and workers want, scaled down to what the memory
        gives.

        What was measured is copy and compute; software per copy, and the activations, come to it in either case.
        """
        if (pair := self._pair) is not None:
            link_ns, host_ns = pair.copy_ns + self._costs.copy_overhead_ns, pair.cpu_ns + self.activations_ns(1)
            return Fraction(pair.nbytes, link_ns), Fraction(pair.nbytes, host_ns)
        link, host = self._wanted(layer)
        share = Fraction(1) if self.dram is None else min(Fraction(1), self.dram / (link + host))
        return link * share, host * share

    def _wanted(self, layer: int) -> tuple[Fraction, Fraction]:
        nbytes = self._costs.expert_bytes[layer]
        link = Fraction(self._costs.hardware.link.lanes * nbytes, self._costs.copy_ns(nbytes))
        return link, Fraction(self.workers * nbytes, self.expert_ns(layer, 1))

    def activations_ns(self, tokens: int) -> int:
        """Their way there and back, each with the link's overhead: no copy call of the experts' thread, whose software
        is charged to experts alone."""
        nbytes = tokens * self._bytes_per_token
        return self._there.ns(nbytes) + self._costs.crossing_ns(nbytes)


def host_of(costs: Costs) -> HostPrices | None:
    """The prices of a machine's host; None where its profile has neither a table nor peak and bandwidth.

    UserError for more workers than there are threads, or than a table has threads for.
    """
    hardware, model = costs.hardware, costs.model
    host, measured = hardware.host, hardware.measured
    if host.cpu_threads is not None and host.workers > host.cpu_threads:
        raise UserError(f"hardware.host.workers={host.workers}: allowed: at most cpu_threads={host.cpu_threads}")
    name, table, _ = find_tables(model, {} if measured is None else measured.models or {})
    if table is not None and table.dtype == costs.dtype:
        return _by_table(costs, f"models.{name}", table)
    if host.dram_gb_per_s is None or (host.cpu_tflops is None and model.expert_params):
        return None
    # Without parameters there are no flops: bytes over bandwidth.
    flops_per_ns = Fraction(1) if host.cpu_tflops is None else host.cpu_tflops * 1000 / host.workers
    roofline = Roofline(1 / flops_per_ns, 1 / host.dram_gb_per_s)
    flops = 2 * model.expert_params
    by_layer = [partial(_roofline_ns, roofline, flops, nbytes) for nbytes in costs.expert_bytes]
    return HostPrices(costs, by_layer, "roofline")


def _by_table(costs: Costs, name: str, table: MeasuredModel) -> HostPrices:
    """The row of the most threads that are measured and that a worker has. UserError where it has fewer than any.

    All workers have the threads of the machine; where these are unknown, the most that were measured.
    """
    host, rows = costs.hardware.host, table.cpu_expert
    measured = sorted(set(rows.axes["threads"]))
    threads = host.cpu_threads or measured[-1]
    each = threads // host.workers
    if each < measured[0]:
        of = f"measured.{name}.cpu_expert is of {counted(measured[0], 'thread')} or more"
        if threads < measured[0]:
            raise UserError(f"hardware.host.cpu_threads={threads}: allowed: at least {measured[0]}, as {of}")
        most = f"at most {threads // measured[0]}, as {of} and the workers share {threads}"
        raise UserError(f"hardware.host.workers={host.workers}: allowed: {most}")
    chosen = max(n for n in measured if n <= each)
    points = zip(rows.axes["threads"], rows.axes["tokens"], rows.ns, strict=True)
    tokens, ns = zip(*sorted((n, ns) for at, n, ns in points if at == chosen), strict=True)
    source = f"table {name}.cpu_expert (threads {chosen})"
    return HostPrices(
        costs,
        [Table(tokens, pooled(ns)).ns] * costs.model.moe_layers,
        source,
        _both(f"{name}.pair", table.pair, threads),
    )


def _both(name: str, pair: Pair | None, threads: int) -> Both | None:
    """The row of the most threads that are measured and at hand."""
    measured = [] if pair is None else [n for n in pair.copy.axes["threads"] if n <= threads]
    if pair is None or not measured:
        return None
    row = len(measured) - 1  # they rise
    source = " and ".join(f"table {name}.{key} (threads {measured[-1]})" for key in ("copy_with_cpu", "cpu_with_copy"))
    return Both(pair.expert_bytes, pair.copy_with_cpu.ns[row], pair.cpu_with_copy.ns[row], source)


def _roofline_ns(roofline: Roofline, flops_per_token: int, nbytes: int, tokens: int) -> int:
    return roofline.ns(flops_per_token * tokens, nbytes) if tokens else 0
