"""What must hold on a device before anything is measured on it.

Each check is a function of a device that returns, some with figures in a line, or raises AssertionError or DeviceError
with what does not hold. It needs torch, transformers, NumPy and PyYAML, no file and no test runner, and a second or so.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from policies.lru import LRU
from policies.on_demand import OnDemand
from real.runtime.backend import backend_of
from real.runtime.compute import LayerCompute, dispatch
from real.runtime.pool import Pool
from real.runtime.store import PageLocks
from real.runtime.tiny import E, K, L, Ran, Shared, count_forced, follow, speak, tiny_model
from traces.models.devices import device_of, free_memory

Check = Callable[[torch.device], str | None]
"""Returns what there is to say beyond that it holds."""
HALF = L * E // 2
TOLERANCE = 0.02
"""Of the largest number: some roundings of bfloat16, whose step is 1/256."""


def expect(holds: object, text: str) -> None:
    """AssertionError, whatever Python is told to leave out."""
    if not holds:
        raise AssertionError(text)


def has_an_index(device: torch.device) -> None:
    """A name without an index is a device with one, which torch can be set to."""
    named = device_of(device.type)
    expect(named.type == "cpu" or named.index is not None, f"device={device.type} is {named}, without an index")
    expect(backend_of(torch.device(device.type)).device == named, f"a backend of {device.type} is not on {named}")


def copies_arrive_in_order(device: torch.device) -> None:
    """Each of several copies into one place, and the last one stays."""
    backend = backend_of(device)
    target = torch.zeros(1 << 20, dtype=torch.uint8, device=device)
    backend.synchronize()
    sources = [torch.full((1 << 20,), i, dtype=torch.uint8) for i in range(1, 5)]
    if device.type == "cuda":
        sources = [source.pin_memory() for source in sources]
    tickets = [backend.start_copy(target, source) for source in sources]
    for ticket in tickets:
        ticket.wait()
        expect(ticket.done(), "a copy that was waited for is not done")
    (found,) = backend.download(target)
    expect((found == 4).all(), f"the last of four copies left {np.unique(found)}, not 4")


def copies_from_registered_memory(device: torch.device) -> None:
    """Memory that was registered with the driver later, as a mapped file's may be, is copied as page-locked memory."""
    backend, locks = backend_of(device), PageLocks()
    source = torch.arange(1 << 20, dtype=torch.int64)
    try:
        locks.lock(source.view(torch.uint8))
        expect(source.is_pinned(), "registered memory is not page-locked")
        target = torch.zeros_like(source, device=device)
        backend.synchronize()
        backend.start_copy(target, source).wait()
        expect(torch.equal(target.cpu(), source), "a copy from registered memory has other bytes")
    finally:
        locks.close()
    expect(not source.is_pinned(), "memory that was unregistered is page-locked")


def copies_overlap_compute(device: torch.device) -> None:
    """A copy from such memory that is handed over while the device computes does not wait for it."""
    backend, locks = backend_of(device), PageLocks()
    target, source = torch.zeros(1 << 20, device=device), torch.ones(1 << 20)
    locks.lock(source.view(torch.uint8))
    backend.start_copy(target, source).wait()
    backend.synchronize()
    spin: Any = torch.cuda._sleep
    spin(300_000_000)  # cycles of the device: more than a tenth of a second
    computing = backend.mark()
    copied = backend.start_copy(target, source)
    copied.wait()
    still = not computing.done()
    computing.wait()
    locks.close()
    expect(still, "a copy waited for the compute that was launched before it")
    expect(computing.done(), "compute that was waited for is not done")


def values_cross(device: torch.device) -> None:
    """Up, through compute, and down, in the order of the calls, whatever the type."""
    backend = backend_of(device)
    for dtype in (torch.int64, torch.float32, torch.bfloat16, torch.float16):
        sent = [torch.arange(i, i + 100).to(dtype) for i in range(20)]
        expected = [(2 * host.double()).numpy() for host in sent]
        there = [backend.upload(host) * 2 for host in sent]
        expect(all(tensor.device == backend.device for tensor in there), "what was sent is on another device")
        for found, wanted in zip(backend.download(*there), expected, strict=True):
            expect(np.array_equal(found, wanted), f"{dtype}: other values came back")


def slots_hold_their_experts(device: torch.device) -> None:
    """Chunks arrive in the slots of their experts; a table on the device follows what is given and taken."""
    model = tiny_model(device)
    store, backend = model.store, model.backend
    if device.type == "cuda":
        expect(store.expert(0).is_pinned(), "experts do not wait in page-locked memory")
    pool = Pool(store, 5 * store.layout.nbytes, 2, backend)
    wanted = [3, E + 1, 2 * E, 7]
    for ticket in [pool.start_copy(2 * x + part) for x in wanted for part in (0, 1)]:
        ticket.wait()
    for x in wanted:
        (found,) = backend.download(pool.block[pool.slot_of[x]].clone())
        expect(np.array_equal(found, store.expert(x).numpy()), f"expert {x} has other bytes on the device")
    pool.evict(3)
    pool.start_copy(2 * 5).wait()
    (table,) = backend.download(pool.table(0))
    expect(table.tolist() == pool.slot_of[:E], f"the table of layer 0 is {table.tolist()}, not {pool.slot_of[:E]}")
    backend.synchronize()
    pool.free()


def experts_compute(device: torch.device) -> None:
    """Both ways against the formula in double precision: one token, several, and choices that are none."""
    for held in (L * E, L * E - 1):
        model = tiny_model(device, exact=False)
        pool = Pool(model.store, held * model.store.layout.nbytes, 1, model.backend)
        for x in range(E, 2 * E):
            pool.start_copy(x).wait()
        layer = LayerCompute(model.moe.layers[1].experts, 1, pool, exact=False)
        if device.type == "cuda" and torch.cuda.get_device_capability(device)[0] in (9, 10):
            expect(layer.groups, "torch's grouped kernel is not taken, though the device has it")
        random = np.random.default_rng(0)
        for rows in (1, 7, 40):
            ids = random.random((rows, 1, E)).argsort(axis=-1)[..., :K]
            ids[rows // 2 :, :, 1] = E if rows > 7 else ids[rows // 2 :, :, 1]
            hidden = torch.from_numpy(random.standard_normal((rows, 128))).to(device, torch.bfloat16)
            weights = torch.from_numpy(random.random((rows, K))).to(device, torch.bfloat16)
            (dispatched,) = dispatch(ids, E, model.backend, grouped=True)
            with torch.inference_mode():
                wanted = _formula(model.store, ids[:, 0], hidden, weights)
                turns = [[E + x for x in dispatched.spans]]
                alone = layer.one_by_one(hidden, dispatched, weights, turns)
                _near(alone, wanted, f"one by one, {rows} rows")
                again = layer.one_by_one(hidden, dispatched, weights, turns[::-1])
                expect(torch.equal(alone, again), f"one by one, {rows} rows: other bits the second time")
                if layer.groups:
                    assert dispatched.on_device is not None
                    _near(
                        layer.together(hidden, dispatched.on_device, weights, not dispatched.full),
                        wanted,
                        f"grouped, {rows} rows",
                    )
        model.backend.synchronize()
        pool.free()


def _formula(store: Any, ids: Any, hidden: Tensor, weights: Tensor) -> Tensor:
    x, w = hidden.double().cpu(), weights.double().cpu()
    total = torch.zeros_like(x)
    for token, row in enumerate(ids):
        for j, expert in enumerate(row):
            if expert < E:
                parts = store.layout.views(store.expert(E + int(expert)).clone()[None])
                gate, up = (parts["gate_up_proj"][0].double() @ x[token]).chunk(2)
                total[token] += w[token, j] * (parts["down_proj"][0].double() @ (torch.nn.functional.silu(gate) * up))
    return total


def _near(found: Tensor, wanted: Tensor, what: str) -> None:
    off = float((found.double().cpu() - wanted).abs().max()) / float(wanted.abs().max())
    expect(off < TOLERANCE, f"{what}: off by {off:.3g} of the largest number; allowed: {TOLERANCE}")


def forced_passes_agree(device: torch.device) -> None:
    """A recorded routing: the log's replay decides alike, and no bit depends on the policy or the budget."""
    _agree({f"{make.name}, {held} experts": follow(tiny_model(device), make, held) for make, held in _CASES})


def live_passes_agree(device: torch.device) -> None:
    """The model's own routing: the same."""
    _agree({f"{make.name}, {held} experts": speak(tiny_model(device), make, held) for make, held in _CASES})


_CASES = ((LRU, L * E), (OnDemand, 1), (OnDemand, HALF), (LRU, 2), (LRU, HALF), (LRU, L * E - 1))


def _agree(ran: dict[str, Ran]) -> None:
    first, whole = next(iter(ran.items()))
    expect(all(np.isfinite(logits).all() for logits in whole.logits), f"{first}: logits that are not finite")
    for name, other in ran.items():
        expect(other.agrees, f"{name}: the replay of the log decides otherwise")
        expect(other.same(whole), f"{name}: other bits than {first}")


def host_passes_agree(device: torch.device) -> str:
    """Some experts are computed on the host, of a recorded routing and of the model's own: the log's replay decides
    alike; on a CPU no bit differs, on a GPU, which rounds otherwise, the first pass is near the exact one."""
    cpu, said = device.type == "cpu", list[str]()
    for run, what in ((follow, "a recorded routing"), (speak, "the model's own routing")):
        whole = run(tiny_model(device), LRU, L * E)
        for held in (2, HALF):
            found = run(tiny_model(device), Shared, held)
            accounts = found.machine.core.accounts
            expect(found.agrees, f"{what}, {held} experts: the replay of the log decides otherwise")
            expect(accounts.host_lookups, f"{what}, {held} experts: the host has computed nothing")
            expect(not cpu or found.same(whole), f"{what}, {held} experts: other bits than without a host")
            off, divergence = apart(found.logits[0], whole.logits[0])
            expect(off < 5 * TOLERANCE, f"{what}, {held} experts: logits off by {off:.3g} of the largest")
        said.append(f"{what}: first logits off by {off:.2g} of the largest, KL {divergence:.2g} nats")
    return "; ".join(said)


def apart(found: NDArray[Any], wanted: NDArray[Any]) -> tuple[float, float]:
    """How far logits [n, V] are from those wanted, as a share of the largest; and their KL divergence, in nats, the
    largest over n."""
    one, other = (torch.from_numpy(it.astype(np.float64)) for it in (found, wanted))
    logs = [it.log_softmax(-1) for it in (other, one)]
    divergence = (logs[0].exp() * (logs[0] - logs[1])).sum(-1)
    return float((one - other).abs().max() / other.abs().max()), float(divergence.max())


def grouped_passes_are_near(device: torch.device) -> None:
    """By the grouped kernel: no bits are promised; the facts agree, and the first pass is near the exact one."""
    model = tiny_model(device, exact=False)
    for make, held in ((LRU, L * E), (LRU, HALF)):
        exact, found = follow(tiny_model(device), make, held), follow(model, make, held)
        expect(found.agrees, f"grouped, {held} experts: the replay of the log decides otherwise")
        wanted = torch.from_numpy(exact.logits[0].astype(np.float64))
        off = float((torch.from_numpy(found.logits[0]) - wanted).abs().max() / wanted.abs().max())
        expect(off < 5 * TOLERANCE, f"grouped, {held} experts: logits off by {off:.3g} of the largest")
    expect(speak(model, LRU, L * E).agrees, "grouped, the model's own routing: the replay decides otherwise")


def passes_cross_seldom(device: torch.device) -> None:
    """A decode pass of one request, all of whose experts are there, with a recorded routing: one wait per layer, and
    nothing sent but its token. With all experts resident: no wait at all."""
    for held in (HALF, L * E - 1):
        seen = count_forced(device, held)
        expect(seen == {"waits": L}, f"{held} experts: a decode pass has {seen}, not {L} waits")


def cached_memory_is_free(device: torch.device) -> None:
    """What torch's allocator holds and has not given out can be had."""
    torch.cuda.empty_cache()
    before = free_memory(device)
    taken = torch.empty(256 << 20, dtype=torch.uint8, device=device)
    during = free_memory(device)
    del taken
    after = free_memory(device)
    expect(before - during >= 256 << 20, f"256 MiB were taken, and {before - during} bytes fewer are free")
    expect(abs(after - before) < 64 << 20, f"{before} bytes were free, and {after} once 256 MiB were given back")


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        has_an_index,
        values_cross,
        copies_arrive_in_order,
        copies_from_registered_memory,
        copies_overlap_compute,
        slots_hold_their_experts,
        experts_compute,
        forced_passes_agree,
        live_passes_agree,
        host_passes_agree,
        grouped_passes_are_near,
        passes_cross_seldom,
        cached_memory_is_free,
    )
}
"""By name, the simplest first."""
ONLY_CUDA = frozenset({"copies_from_registered_memory", "copies_overlap_compute", "cached_memory_is_free"})
"""A CPU has nothing for these."""
