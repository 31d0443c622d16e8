"""What everything costs, in whole nanoseconds.

Every duration is computed in integers and rounded up, once. Rounding up keeps two laws exact that
rounding to nearest breaks: copying in pieces never takes less than the bytes at peak bandwidth
(:meth:`Costs.link_floor_ns`), and running tokens together never takes more than running them apart.

The constants of a hardware profile make straight lines and rooflines; the tables of a measured one take their place
where they apply, and :attr:`Costs.sources` says which cost is from where. Tables are lines between the measured points,
in exact arithmetic: exact at every point, and monotone, as the points are (:mod:`sim.prices.measured`). Beyond them the
asymptotes are stated here and nowhere else.
"""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import partial

from sim.prices import HardwareProfile, ModelProfile
from sim.prices.curves import Affine, Grid, Roofline, Table, ceil
from sim.prices.measured import MeasuredModel
from sim.prices.peers import Peers
from sim.prices.placement import Spread
from traces.kit.errors import UserError, one_of


class Costs:
    """Prices of one model on one machine, its experts held as `dtype` (None: the model's own).

    With several GPUs that hold the same, or a part of each expert, they are those of all at once; else of one of them.
    UserError where the model has no size at `dtype` or the machine has no peak for the model's compute dtype.
    """

    launch_ns: int  # per expert launched
    layer_overhead_ns: int  # software, per MoE layer and pass
    copy_overhead_ns: int  # software, per copy call
    expert_bytes: tuple[int, ...]  # of one expert, per layer
    sources: dict[str, str]  # cost -> the table, constant or model that it is from

    def __init__(
        self, model: ModelProfile, hardware: HardwareProfile, dtype: str | None = None, spread: Spread | None = None
    ) -> None:
        self.model, self.hardware, self.spread = model, hardware, spread or Spread()
        self.peers = Peers(model, hardware, self.spread)
        self.dtype = model.dtype if dtype is None else dtype
        self.expert_bytes = model.priced(self.dtype)
        self.launch_ns = ceil(hardware.gpu.launch_us * 1000)
        self.layer_overhead_ns = ceil(hardware.software.layer_overhead_us * 1000)
        self.copy_overhead_ns = ceil(hardware.software.copy_overhead_us * 1000)
        self._gpu = _roofline(hardware, model.compute_dtype)
        self.sources = dict.fromkeys(("copy", "launch", "layer_overhead", "copy_overhead"), "constants")
        self.sources |= dict.fromkeys(("experts", "dense", "step"), "roofline")
        if model.dense_bytes is not None:
            self.sources["dense"] = "bytes / HBM bandwidth (the trace's dense_bytes, the mean of its layers)"
        self._link = self._make_link()
        self._experts: dict[int, Callable[[int], int]] = {n: partial(self._roofline_ns, n) for n in self.expert_bytes}
        self._dense: Grid | None = None
        self._use_tables()
        by_size: dict[int, list[int]] = {n: [0] for n in self.expert_bytes}
        self._tables = [by_size[n] for n in self.expert_bytes]
        self._copies: dict[int, int] = {}

    def _make_link(self) -> Affine | Table:
        link, measured = self.hardware.link, self.hardware.measured
        if measured is None:
            return Affine(link.overhead_us * 1000, 1 / link.h2d_gb_per_s)  # 1 GB/s is one byte per nanosecond
        copies = measured.copy_h2d_pinned
        self.sources["copy"] = f"table copy_h2d_pinned ({_range(copies.axes['bytes'], 'bytes')})"
        return Table(copies.axes["bytes"], copies.ns)

    def _use_tables(self) -> None:
        """Put the tables of this very shape and dtype in the place of rooflines; say why where there are none."""
        measured = self.hardware.measured
        if measured is None:
            return
        name, table, why = find_tables(self.model, measured.models or {})
        if table is None:
            self.sources |= {"experts": f"roofline ({why})", "dense": f"roofline ({why})"}
            return
        tokens = table.expert.axes["tokens"]
        if self.dtype == table.dtype:
            self._experts = dict.fromkeys(self.expert_bytes, Table(tokens, table.expert.ns).ns)
            self.sources["experts"] = f"table models.{name}.expert ({_range(tokens, 'tokens')})"
        else:
            self.sources["experts"] = f"roofline (measured in {table.dtype}, not {self.dtype})"
        if self.model.compute_dtype != table.dtype:
            self.sources["dense"] = f"roofline (measured in {table.dtype}, not {self.model.compute_dtype})"
            return
        rows, contexts = (tuple(sorted(set(table.dense.axes[axis]))) for axis in ("tokens", "context"))
        width = len(contexts)
        self._dense = Grid(rows, contexts, [table.dense.ns[i * width : (i + 1) * width] for i in range(len(rows))])
        reach = f"tokens {rows[0]} to {rows[-1]}, {_range(contexts, 'context')}"
        self.sources["dense"] = f"table models.{name}.dense ({reach})"

    def copy_ns(self, nbytes: int) -> int:
        """One copy call of `nbytes` from host to GPU: bytes over bandwidth, the link's overhead and the software's."""
        known = self._copies.get(nbytes)
        if known is None:
            spread = self.spread
            alone = self._link.ns(-(-nbytes // spread.parts))
            known = self._copies[nbytes] = max(alone, self._at_the_root(nbytes)) + self.copy_overhead_ns
        return known

    def crossing_ns(self, nbytes: int) -> int:
        """`nbytes` over the link from host to GPU, without the software of a copy call."""
        return self._link.ns(nbytes)

    def _at_the_root(self, nbytes: int) -> int:
        """How long what all GPUs copy at once takes at the root, all lanes being busy; 0 for who copies alone."""
        root, spread = self.hardware.root_gb_per_s, self.spread
        if root is None or spread.alike == spread.parts == 1:
            return 0
        return ceil(spread.alike * nbytes * self.hardware.link.lanes / root)

    def link_floor_ns(self, nbytes: int) -> int:
        """At most how long the link copies `nbytes`, however they are cut: bytes over the peaks of all lanes."""
        floor = self._link.floor_ns(nbytes // self.spread.parts)
        return max(floor, self._at_the_root(nbytes)) // self.hardware.link.lanes

    def expert_ns(self, layer: int, tokens: int) -> int:
        """One expert of `layer` on `tokens` tokens, without its launch."""
        return self.expert_table(layer, tokens)[tokens]

    def expert_table(self, layer: int, max_tokens: int) -> list[int]:
        """Durations of one expert of `layer` by tokens, from 0 to at least `max_tokens`; read only."""
        table = self._tables[layer]
        if len(table) <= max_tokens:
            whole = map(self._experts[self.expert_bytes[layer]], range(len(table), max_tokens + 1))
            table.extend(-(-ns // self.spread.parts) for ns in whole)
        return table

    def dense_ns(self, tokens: int, kv_tokens: int, pairs: int) -> int:
        """Attention, norms, router and shared experts of one MoE layer; the same in each layer of a pass.

        `tokens`: rows of the pass. `kv_tokens`: keys read, summed over its requests (context and own rows).
        `pairs`: query-key pairs, the sum of :func:`attended_pairs`. Weights and keys are read once;
        activations and what the softmax costs are left out. Where the model's shapes are unknown: its `dense_bytes`
        over the memory bandwidth, 0 without them.

        A measured table is of one request; several are priced as one that reads as many keys.
        """
        if self._dense is not None:
            return self._dense.ns(tokens, kv_tokens - tokens)
        model = self.model
        if model.dense_bytes is not None:
            return self._gpu.ns(0, ceil(Fraction(sum(model.dense_bytes), len(model.dense_bytes))))
        params = model.attention_params + model.router_params + model.shared_expert_params
        return self._layer_ns(params, tokens, kv_tokens, pairs)

    def lead_ns(self, tokens: int, kv_tokens: int, pairs: int) -> int:
        """The leading dense layers, once per pass, before the first MoE layer; arguments as for `dense_ns`."""
        dense = self.model.leading_dense_layers
        return dense.count * self._layer_ns(dense.params_per_layer, tokens, kv_tokens, pairs)

    def head_ns(self, logit_rows: int) -> int:
        """The LM head, once per pass, after the last layer. Generation wants the logits of one row per request."""
        model = self.model
        return self._gpu.ns(2 * model.head_params * logit_rows, model.head_params * model.dense_bytes_per_param)

    def _roofline_ns(self, nbytes: int, tokens: int) -> int:
        """One expert of so many bytes: its weights are read once, its flops grow with the tokens."""
        return self._gpu.ns(2 * self.model.expert_params * tokens, nbytes) if tokens else 0

    def _layer_ns(self, params: int, tokens: int, kv_tokens: int, pairs: int) -> int:
        model = self.model
        flops = 2 * (params * tokens + model.attention_width * pairs)
        return self._gpu.ns(flops, params * model.dense_bytes_per_param + kv_tokens * model.kv_bytes_per_token)


def attended_pairs(tokens: int, context: int) -> int:
    """Query-key pairs of one request's `tokens` new rows after `context` cached ones, under a causal mask."""
    return tokens * context + tokens * (tokens + 1) // 2


def find_tables(model: ModelProfile, tables: Mapping[str, MeasuredModel]) -> tuple[str, MeasuredModel | None, str]:
    """The tables of this very shape: their name, they, or None and why there are none."""
    if not model.shapes_known:
        return "", None, "the model's shapes are not all known"
    for name, table in tables.items():
        if all(getattr(model, key) == value for key, value in vars(table.shape).items()):
            return name, table, ""
    return "", None, f"no table of this shape; measured: {one_of(tables) or 'none'}"


def _range(values: Sequence[int], unit: str) -> str:
    return f"{unit} {values[0]} to {values[-1]}, beyond by asymptote"


def _roofline(hardware: HardwareProfile, dtype: str) -> Roofline:
    gpu = hardware.gpu
    if dtype not in gpu.tflops:
        where = f"model.compute_dtype={dtype!r}: no peak in hardware {hardware.name!r}"
        raise UserError(f"{where}; allowed: {one_of(gpu.tflops)}")
    flops_per_ns = gpu.tflops[dtype] * 1000 * gpu.efficiency.flops
    return Roofline(1 / flops_per_ns, 1 / (gpu.hbm_gb_per_s * gpu.efficiency.hbm))
