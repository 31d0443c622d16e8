"""What is decided for a GPU, with torch.cuda patched: which device, how much memory, which kernel."""

import threading
from dataclasses import replace
from typing import Any

import pytest

from policies.api import LayerEvent
from policies.lru import LRU
from real.run.session import on_device
from real.runtime import offloaded as offloading
from real.runtime.backend import Backend, CudaBackend
from real.runtime.compute import MAX_GROUPS, LayerCompute, can_group, has_fast_kernel
from real.runtime.offloaded import Offloaded
from real.runtime.store import Layout, Part
from sim.experiment.cell import make_cell
from sim.experiment.compose import read_config
from tests.real.runtime.rig import CPU, Rig, serve, torch
from tests.traces.models.tiny import tiny
from traces.kit.errors import UserError
from traces.models.devices import ROOM, choose, device_of, free_memory, memory

GB = 10**9
CUDA = torch.device("cuda", 0)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Two GPUs, of which the second is the current one; figures that a test may change."""
    figures = {"free": 4 * GB, "reserved": 3 * GB, "allocated": 1 * GB, "major": 9, "minor": 0}
    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "current_device": lambda: 1,
        "mem_get_info": lambda device=None: (figures["free"], 10 * GB),
        "memory_reserved": lambda device=None: figures["reserved"],
        "memory_allocated": lambda device=None: figures["allocated"],
        "get_device_capability": lambda device=None: (figures["major"], figures["minor"]),
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    return figures


# -- devices ----------------------------------------------------------------------------------------------------


# torch.cuda.set_device refused it, at the first line of every command.
@pytest.mark.parametrize(("name", "index"), [("auto", 1), ("cuda", 1), ("cuda:0", 0), ("cuda:1", 1)])
def test_a_device_has_its_index(name: str, index: int, cuda: dict[str, int]) -> None:
    assert device_of(name) == torch.device("cuda", index)
    assert choose(name, 0) == f"cuda:{index}"
    with pytest.raises(UserError, match=r"device='cuda:2': this machine has 2 CUDA devices"):
        device_of("cuda:2")


def test_a_backend_sets_a_device_with_an_index(cuda: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: list[Any] = []
    monkeypatch.setattr(torch.cuda, "set_device", set_to.append)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: ("stream", device))
    backend = CudaBackend(torch.device("cuda"))
    assert backend.device == torch.device("cuda", 1)
    assert set_to == [backend.device]
    assert backend._copies == ("stream", backend.device)


# A thread has a current device of its own: the copies of a second GPU's run were handed over on the first.
def test_each_thread_enters_the_device() -> None:
    entered: dict[int, bool] = {}
    called: set[int] = set()

    class Entering(Backend):
        def enter(self) -> None:
            entered[threading.get_ident()] = torch.is_inference_mode_enabled()

    class Seen(LRU):
        def note(self) -> None:
            if threading.current_thread() is threading.main_thread():
                return  # the replay
            assert torch.is_inference_mode_enabled(), "what the model has shown is read as the model's thread reads it"
            called.add(threading.get_ident())

        def on_gate(self, event: LayerEvent) -> None:
            super().on_gate(event)
            if event.layer == 0:
                self.actions.predict(event.layer, 1000, False)

        def on_complete(self, expert: int) -> None:
            self.note()

        def on_prediction(self, tag: int) -> None:
            self.note()

    rig = Rig(Offloaded(tiny("olmoe"), CPU))
    rig.model.backend = Entering()
    serve(rig, Seen, 6).check()
    assert len(called) == 2, "the copy thread, and the predictor's"
    assert called == entered.keys()


# -- memory -----------------------------------------------------------------------------------------------------


# The driver counts what the allocator has cached as used: the second run of a process was refused.
def test_what_the_allocator_has_cached_is_free(cuda: dict[str, int]) -> None:
    assert free_memory(CUDA) == 6 * GB
    assert memory()["cuda"] == 6 * GB
    assert choose("auto", int(ROOM * 6 * GB)) == "cuda:1"
    cuda["allocated"] = 3 * GB
    assert free_memory(CUDA) == 4 * GB


def test_auto_is_what_the_device_has_free(cuda: dict[str, int]) -> None:
    rig = Rig(Offloaded(tiny("olmoe"), CPU))
    cell = make_cell(read_config(["budget=auto", "bounds=false"]))
    assert on_device(cell, rig.model) is cell, "without a GPU the profile has the say"
    rig.model.backend.device = CUDA
    assert cell.setup.budget == cell.total_expert_bytes > 6 * GB
    there = on_device(cell, rig.model)
    assert there.setup.budget == there.config.budget == int(ROOM * 6 * GB)
    given = make_cell(replace(cell.config, budget=6 * GB))
    assert on_device(given, rig.model) is given, "what the allocator has cached may be taken"
    more = make_cell(replace(cell.config, budget=6 * GB + 1))
    with pytest.raises(UserError, match=rf"budget={6 * GB + 1}: {6 * GB} bytes are free on cuda:0"):
        on_device(more, rig.model)


# -- the grouped kernel -----------------------------------------------------------------------------------------


def layout(width: int = 128, inner: int = 64, dtype: Any = torch.bfloat16, bias: int = 0) -> Layout:
    up, down = 2 * inner * width, inner * width
    item = dtype.itemsize
    parts = [
        Part("down_proj", (width, inner), dtype, 0),
        Part("gate_up_proj", (2 * inner, width), dtype, down * item),
    ]
    if bias:
        parts.append(Part("down_proj_bias", (bias,), dtype, (up + down) * item))
    return Layout(tuple(parts), (up + down + bias) * item)


# Elsewhere torch waits for the groups' sizes and loops over all of them: 1,024 products where 8 are wanted.
@pytest.mark.parametrize(
    ("major", "groups", "kind", "fast"),
    [
        (9, 64, {}, True),
        (10, 64, {}, True),
        (8, 64, {}, False),  # A100
        (12, 64, {}, False),  # RTX 50
        (9, MAX_GROUPS - 1, {}, True),
        (9, MAX_GROUPS, {}, False),
        (9, 64, {"dtype": torch.float32}, False),
        (9, 64, {"dtype": torch.float16}, False),
        (9, 64, {"width": 132}, False),  # rows of 264 bytes
        (9, 64, {"inner": 36}, False),
        (9, 64, {"bias": 8}, True),
        (9, 64, {"bias": 4}, False),  # every second expert begins at half of 16 bytes
    ],
)
def test_where_torch_has_a_fast_kernel(
    major: int, groups: int, kind: dict[str, Any], fast: bool, cuda: dict[str, int]
) -> None:
    cuda["major"] = major
    assert has_fast_kernel(CUDA, layout(**kind), groups) is fast
    assert not has_fast_kernel(CPU, layout(**kind), groups)


def test_it_is_never_taken_where_bits_must_not_depend_on_it(cuda: dict[str, int]) -> None:
    for exact in (True, False):
        rig = Rig(Offloaded(tiny("olmoe", hidden_size=64, intermediate_size=64).to(torch.bfloat16), CPU, exact=exact))
        for held in (5, rig.experts):
            machine = rig.machine(LRU, held)
            pool = machine.pool
            for device, grouped in ((CPU, held == rig.experts), (CUDA, True)):
                pool.backend.device = device
                assert can_group(pool) is grouped
                module = rig.model.moe.layers[0].experts
                assert LayerCompute(module, 0, pool, exact).groups is (grouped and not exact)
                assert rig.model.computes(pool) == ("grouped" if grouped and not exact else "exact")
            pool.backend.device = CPU


# Kernels choose by alignment: the same expert would be computed by another one in the next slot.
def test_experts_whose_slots_are_not_aligned_alike_are_refused(
    cuda: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    class There(Backend):
        device = CUDA

    monkeypatch.setattr(offloading, "backend_of", lambda device: There())
    model = tiny(
        "gpt_oss", hidden_size=30, num_hidden_layers=2, layer_types=["full_attention"] * 2, intermediate_size=6
    )
    model = model.to(torch.bfloat16)
    said = r"exact=true: an expert has \d+ bytes, no multiple of 16.*allowed: exact=false"
    with pytest.raises(UserError, match=said):
        Offloaded(model, CUDA)


# -- warming up -------------------------------------------------------------------------------------------------


# The first pass made cuBLAS's handle and loaded each kernel: milliseconds, of which a run's figures were made.
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("family", ["olmoe", "gpt_oss"])
def test_warming_up_changes_nothing(family: str, exact: bool) -> None:
    rig = Rig(Offloaded(tiny(family), CPU, exact=exact))
    for held in (6, rig.experts):
        rig.model._warm = True
        cold = serve(rig, LRU, held).check()
        rig.model._warm = False
        warm = serve(rig, LRU, held).check()
        assert rig.model._warm
        assert warm.same_logits(cold)
        assert warm.core.state.peak == cold.core.state.peak
        assert rig.model.model.config._experts_implementation == offloading.TAKEN


def test_a_device_that_cannot_run_the_model_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(Offloaded(tiny("olmoe"), CPU))
    rig.model._warm = False

    def broken(*_: Any) -> None:
        raise RuntimeError("CUDA error: no kernel image is available")

    monkeypatch.setattr(rig.model.model.model.norm, "forward", broken)
    with pytest.raises(UserError, match="the model cannot be run on cpu: CUDA error: no kernel image is available"):
        serve(rig, LRU, 6)
