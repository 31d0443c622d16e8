"""The experts' compute: one by one as they are complete, or all in one kernel; summed in one order whatever came first.

One by one, an expert's products have the same shapes and the same order of sums whatever else is resident, so that no
bit of the output depends on the policy or the budget: that is ``exact``. The grouped kernel cuts its products into
other tiles and rounds otherwise; on a CPU the two agree to the bit (tested), on a GPU to the rounding of the dtype.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.integrations.moe import grouped_mm_experts_forward

from real.runtime.backend import Backend, Staging
from real.runtime.pool import ALIGNED, Pool
from real.runtime.store import HostStore, Layout

MAX_GROUPS = 1024
"""torch's grouped product on a GPU takes fewer groups than this."""
VECTORS = 64
"""Numbers that a CPU's loop over vectors takes at a time, at most: two vectors of 32 bfloat16."""


@dataclass(frozen=True, slots=True)
class Dispatch:
    """One layer's rows, n x K of them (a token once for each expert it chose), in the order of their experts."""

    ids: NDArray[np.int64]
    """[n, K]; E and above: no expert."""
    spans: dict[int, tuple[int, int]]
    """Expert of the layer -> its rows, first and end. Without those that no token chose."""
    full: bool
    """Whether every row has an expert."""
    tokens: Tensor | None = None
    """On the device, int64 [n * K]: the token of each row. None: there is one token, in the order of its choice."""
    back: Tensor | None = None
    """On the device, int64 [n * K]: the row of each token's choices, in token order. None as above."""
    on_device: Tensor | None = None
    """``ids`` on the device, for the grouped kernel, if it was asked for."""


def dispatch(ids: NDArray[np.int64], n_experts: int, backend: Backend, grouped: bool = False) -> list[Dispatch]:
    """The dispatch of each layer. ``ids`` [n, L, K]: experts of the pass's tokens, E and above for none.

    What the device is to have of it goes there in one upload; for a single token nothing does, but its ids where the
    kernel is ``grouped``.
    """
    n, n_layers, top_k = ids.shape
    layers = np.ascontiguousarray(ids.transpose(1, 0, 2))  # [L, n, K]
    if n == 1 and (alone := _of_one_token(layers, n_experts)) is not None:
        sent = _sent(backend, layers.reshape(n_layers, 1, top_k)) if grouped else None
        return [
            Dispatch(layers[i], spans, len(spans) == top_k, on_device=None if sent is None else sent[i])
            for i, spans in enumerate(alone)
        ]
    flat = np.minimum(layers.reshape(n_layers, n * top_k), n_experts)
    order = np.argsort(flat, axis=1, kind="stable")
    back = np.empty_like(order)
    np.put_along_axis(back, order, np.broadcast_to(np.arange(n * top_k), order.shape), axis=1)
    numbered = flat + np.arange(n_layers)[:, None] * (n_experts + 1)
    counts = np.bincount(numbered.reshape(-1), minlength=n_layers * (n_experts + 1)).reshape(n_layers, -1)
    ends = counts[:, :n_experts].cumsum(axis=1)
    arrays = [order // top_k, back, layers.reshape(n_layers, n * top_k)]
    sent = _sent(backend, np.stack(arrays[: 3 if grouped else 2]))
    tokens, rows = sent[0].unbind(0), sent[1].unbind(0)
    dispatched = []
    for i in range(n_layers):
        chosen = np.flatnonzero(counts[i, :n_experts])
        last = ends[i, chosen].tolist()
        spans = {x: (end - int(counts[i, x]), end) for x, end in zip(chosen.tolist(), last, strict=True)}
        own = sent[2, i].view(n, top_k) if grouped else None
        dispatched.append(Dispatch(layers[i], spans, not counts[i, n_experts], tokens[i], rows[i], own))
    return dispatched


def _sent(backend: Backend, numbers: NDArray[np.int64]) -> Tensor:
    return backend.upload(torch.from_numpy(np.ascontiguousarray(numbers, np.int64)))


def _of_one_token(layers: NDArray[np.int64], n_experts: int) -> list[dict[int, tuple[int, int]]] | None:
    """Spans where each row is one expert's; None if the token has an expert twice, as a lossy policy may want it."""
    found = []
    for row in layers[:, 0].tolist():
        spans = {x: (j, j + 1) for j, x in enumerate(row) if x < n_experts}
        if len(spans) < sum(x < n_experts for x in row):
            return None
        found.append(spans)
    return found


def can_group(pool: Pool) -> bool:
    """Whether the grouped kernel takes the pool's slots, and is no loop over all of them."""
    device = pool.backend.device
    if not pool.slots:
        return False
    if device.type == "cpu":  # it visits every group, used or not: over a pool 13 times as long as one by one
        return pool.holds_all
    return has_fast_kernel(device, pool.store.layout, pool.store.n_experts if pool.holds_all else pool.slots)


def has_fast_kernel(device: torch.device, layout: Layout, groups: int) -> bool:
    """Whether torch has a kernel for so many groups of experts in this layout, and no loop (aten: GroupedBlas.cpp).

    It is for compute capability 9 and 10, and bfloat16; the tensor memory accelerator that it uses wants every row of
    every matrix, and every expert, at a multiple of 16 bytes. It refuses 1,024 groups. Otherwise torch waits for the
    sizes of the groups and loops over all of them, those without a token too.
    """
    if device.type != "cuda" or torch.version.cuda is None or not groups < MAX_GROUPS:
        return False
    if torch.cuda.get_device_capability(device)[0] not in (9, 10):
        return False
    matrices = [part for part in layout.parts if len(part.shape) == 2]
    rows = all(size * part.dtype.itemsize % ALIGNED == 0 for part in matrices for size in part.shape)
    starts = layout.nbytes % ALIGNED == 0 and all(part.offset % ALIGNED == 0 for part in matrices)
    return rows and starts and all(part.dtype == torch.bfloat16 for part in layout.parts)


class Experts:
    """Some experts of one module, each in a place of its own in memory, computed where they lie.

    ``weights``: name -> [places, ...]; ``each(name, transposed)``: its views of the places, made once.
    """

    def __init__(
        self, module: Any, weights: dict[str, Tensor], each: Callable[[str, bool], tuple[Tensor, ...]]
    ) -> None:
        self.module = _stand_in(module, weights, len(weights["down_proj"]))
        transposed = not module.is_transposed  # then weights are [out, in], and the product wants [in, out]
        first = "gate_up_proj" if self.module.has_gate else "up_proj"
        self._first, self._second = (each(name, transposed) for name in (first, "down_proj"))
        self._biases = [each(f"{name}_bias", False) for name in (first, "down_proj")] if module.has_bias else None
        self._act = self.module._apply_gate if self.module.has_gate else self.module.act_fn

    def expert(self, place: int, x: Tensor, out: Tensor) -> None:
        """The expert in a place on x [n, D] -> out [n, D], without its routing weight.

        A bias is added to the rounded product, as the grouped kernel does: a product that has it built in rounds
        otherwise.
        """
        inner = torch.mm(x, self._first[place])
        if self._biases is not None:
            inner.add_(self._biases[0][place])
        torch.mm(self._act(inner), self._second[place], out=out)
        if self._biases is not None:
            out.add_(self._biases[1][place])


def in_store(module: Any, layer: int, store: HostStore) -> Experts:
    """The layer's experts where they wait: the store's own memory, of which nothing is copied."""
    weights = store.layout.views(store.blocks[layer])

    def each(name: str, transposed: bool) -> tuple[Tensor, ...]:
        return (weights[name].mT if transposed else weights[name]).unbind(0)

    return Experts(module, weights, each)


Work = Callable[[int, Staging], None]
"""``work(expert, staging)``: compute an expert on the host, by its number, and bring its rows to where they belong."""


class LayerCompute(Experts):
    """One layer's experts module, with the pool's slots as its weights.

    ``exact``: one by one, always; otherwise in the grouped kernel, where there is a fast one (:attr:`groups`).
    ``hosted``: the host may compute experts of it, too.
    """

    def __init__(self, module: Any, layer: int, pool: Pool, exact: bool = True, *, hosted: bool = False) -> None:
        super().__init__(module, pool.weights, pool.each)
        self.pool, self.layer, self.groups = pool, layer, not exact and can_group(pool)
        self.on_host = in_store(module, layer, pool.store) if hosted else None
        if pool.holds_all:  # each expert has a slot of its own: a layer's are as in the library's module
            begin = layer * pool.store.n_experts
            own = {name: weight[begin : begin + pool.store.n_experts] for name, weight in pool.weights.items()}
            self._whole = _stand_in(module, own, pool.store.n_experts)

    def together(self, hidden: Tensor, ids: Tensor, weights: Tensor, some_absent: bool = False) -> Tensor:
        """All experts that the tokens chose, which are complete, in the library's grouped kernel.

        hidden [n, D]; ids int64 [n, K] on the device; weights [n, K] -> [n, D]. ``some_absent``: ids of E and above
        stand for no expert.
        """
        module, n_experts = self.module, self.pool.store.n_experts
        if self.pool.holds_all:
            module = self._whole
        else:
            slots = self.pool.table(self.layer)
            if some_absent:
                ids = torch.where(ids < n_experts, slots[ids.clamp(max=n_experts - 1)], self.pool.slots)
            else:
                ids = slots[ids]
        module._is_expert_parallel = some_absent
        return grouped_mm_experts_forward(module, hidden, ids, weights)

    def one_by_one(
        self,
        hidden: Tensor,
        dispatched: Dispatch,
        weights: Tensor,
        turns: Iterable[list[int]],
        tell: Callable[[list[int]], None] = lambda experts: None,
        every: bool = False,
        host: Callable[[Work], None] | None = None,
    ) -> Tensor:
        """Each expert when it has its turn. hidden [n, D]; weights [n, K] -> [n, D].

        ``turns``: expert numbers that may be computed now, until none is left; ``tell`` is called when they have been
        launched. ``every``: each row's expert will have its turn. ``host`` is given how its threads compute theirs,
        which have been when the turns are over: their rows are their own, and are summed with all others.
        """
        n, top_k = dispatched.ids.shape
        first, slot_of, spans = self.layer * self.pool.store.n_experts, self.pool.slot_of, dispatched.spans
        rows, tokens = n * top_k, dispatched.tokens
        # Without a token twice in a row there is nothing to gather: the one there is goes to all its experts.
        inputs = None if tokens is None else hidden.index_select(0, tokens)
        make = hidden.new_empty if every else hidden.new_zeros
        outputs = make((rows, hidden.shape[-1]))
        if host is not None:
            host(self._work(spans, hidden if inputs is None else inputs, outputs, whole=inputs is None))
        for batch in turns:
            for x in batch:
                if (span := spans.get(x - first)) is not None:
                    begin, end = span
                    self.expert(slot_of[x], hidden if inputs is None else inputs[begin:end], outputs[begin:end])
            tell(batch)
        if dispatched.back is not None:
            outputs = outputs.index_select(0, dispatched.back)
        weighted = outputs * weights.reshape(-1, 1)
        return weighted.view(n, top_k, -1).sum(dim=1).to(hidden.dtype)

    def _work(self, spans: dict[int, tuple[int, int]], inputs: Tensor, outputs: Tensor, *, whole: bool) -> Work:
        """How a thread of the host computes an expert: ``inputs`` are all its rows if they are ``whole``, else its
        span of them. It holds the tensors as long as it is held."""
        experts, first = self.on_host, self.layer * self.pool.store.n_experts
        assert experts is not None

        def work(x: int, staging: Staging) -> None:
            if (span := spans.get(x - first)) is None:
                return
            begin, end = span
            rows = outputs[begin:end]
            made = staging.room(rows)
            experts.expert(x - first, staging.fetch(inputs if whole else inputs[begin:end]), made)
            staging.send(made, rows)

        return work

    def warm_up(self, rows: Iterable[int] = (1, 2, 4, 8, 16, 32, 64, 128)) -> None:
        """Launch once what a pass may launch, on whatever lies in the first slot, so that no measured pass loads
        kernels: an expert's products for so many rows each, and what is around them for one token and for several."""
        first, backend = self._first[0], self.pool.backend
        for n in rows:
            x = first.new_zeros((n, first.shape[0]))
            self.expert(0, x, torch.empty_like(x))
        for n in (1, 4):
            (dispatched,) = dispatch(np.zeros((n, 1, 1), np.int64), self.pool.store.n_experts, backend, self.groups)
            hidden, weights = first.new_zeros((n, first.shape[0])), first.new_ones((n, 1))
            self.one_by_one(hidden, dispatched, weights, ())
            if dispatched.on_device is not None:
                module = self._whole if self.pool.holds_all else self.module
                grouped_mm_experts_forward(module, hidden, dispatched.on_device, weights)
            backend.download(weights)


def _gate(module: Any, down: Tensor) -> Any:
    """The module's gate, [n, 2I] -> [n, I], whose rows do not depend on how many there are.

    A CPU computes what its vectors leave over at the end of a tensor by other instructions, which round otherwise. The
    library's own gate works on halves of rows, each for itself; another one is given them one by one where I is such
    that something is left over.
    """
    gate = getattr(module, "_apply_gate", None)
    width = down.shape[1 if module.is_transposed else 2]
    if gate is None or gate.__name__ == "_default_apply_gate" or down.device.type != "cpu" or width % VECTORS == 0:
        return gate
    return lambda x: torch.cat([gate(row) for row in x.split(1)])


def _stand_in(module: Any, weights: dict[str, Tensor], n_experts: int) -> Any:
    """What the library's kernels ask an experts module for."""
    return SimpleNamespace(
        **weights,
        num_experts=n_experts,
        is_transposed=module.is_transposed,
        has_bias=module.has_bias,
        has_gate=getattr(module, "has_gate", True),
        has_post_expert_norm=False,
        act_fn=getattr(module, "act_fn", None),
        _apply_gate=_gate(module, weights["down_proj"]),
        _is_expert_parallel=False,
    )
