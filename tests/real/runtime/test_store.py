"""Where the experts wait: as large as they are, registered once and as a whole, and given back."""

import gc
from typing import Any

import pytest

from real.runtime import offloaded
from real.runtime.backend import Backend, DeviceError
from real.runtime.host import Host
from real.runtime.offloaded import Offloaded
from real.runtime.store import HostStore, draw
from tests.real.runtime.rig import torch
from tests.traces.models.tiny import E, tiny
from traces.kit.errors import UserError
from traces.models.families import inspect_model


class Cudart:
    """CUDA's calls for host memory, noted; `refuses`: the number of the registration that fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refuses: int = -1) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.refuses = refuses
        monkeypatch.setattr(torch.cuda, "cudart", lambda: self)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda device: self.calls.append(("synchronize", device)))

    def cudaHostRegister(self, address: int, nbytes: int, flags: int) -> int:  # noqa: N802 - CUDA's names
        assert flags == 0
        refused = sum(name == "register" for name, *_ in self.calls) == self.refuses
        self.calls.append(("refused" if refused else "register", address, nbytes))
        return 2 if refused else 0

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
        mapped(address)
        self.calls.append(("unregister", address))
        return 0

    def cudaGetErrorString(self, code: int) -> str:  # noqa: N802
        return "out of memory"

    def of(self, name: str) -> list[Any]:
        return [call[1] for call in self.calls if call[0] == name]


def mapped(address: int) -> None:
    """An assertion that memory lies there: it must not be given back while the driver holds it."""
    with open("/proc/self/maps", encoding="ascii") as maps:  # noqa: PTH123
        spans = (line.split()[0].split("-") for line in maps)
        assert any(int(first, 16) <= address < int(end, 16) for first, end in spans)


def experts_of(model: Any) -> list[Any]:
    return [layer.experts for layer in inspect_model(model).layers]


def test_each_block_is_registered_once_as_large_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own pinned memory is rounded up to a power of two: 84 GB of experts took 128 GiB."""
    cuda = Cudart(monkeypatch)
    monkeypatch.setattr(torch.Tensor, "pin_memory", None)
    store = HostStore(experts_of(tiny("gpt_oss")), pinned=True)
    size = E * store.layout.nbytes
    assert size & (size - 1), "no power of two"
    assert cuda.calls == [("register", block.data_ptr(), size) for block in store.blocks]
    assert store.nbytes == len(store.blocks) * size
    for flat in range(len(store.blocks) * E):  # no copy spans two registrations
        expert, (block, nbytes) = store.expert(flat), cuda.calls[flat // E][1:]
        assert block <= expert.data_ptr()
        assert expert.data_ptr() + expert.numel() <= block + nbytes


@pytest.mark.parametrize("closes", [True, False])
def test_a_store_that_is_closed_or_dropped_unregisters_once(closes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cudart(monkeypatch)
    store = HostStore(experts_of(tiny("olmoe")), pinned=True)
    if closes:
        store.close()
        store.close()
    del store
    gc.collect()
    assert cuda.calls[4:] == [("synchronize", 0), *(("unregister", address) for address in cuda.of("register")[::-1])]


@pytest.mark.parametrize("at", [0, 2])
def test_a_registration_that_is_refused(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cudart(monkeypatch, refuses=at)
    said = (
        rf"^73.7 KB of host memory cannot be page-locked, after {('0 B', '', '147 KB')[at]}: out of memory; allowed: "
    )
    with pytest.raises(DeviceError, match=said) as caught:
        HostStore(experts_of(tiny("olmoe")), pinned=True)
    assert "\n" not in str(caught.value)
    assert len(cuda.of("register")) == at
    assert cuda.of("unregister") == cuda.of("register")[::-1], "with the error still held"


def test_what_fails_between_registrations_unregisters(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, rooms = Cudart(monkeypatch), iter([1 << 30, 1 << 30, 0])
    with pytest.raises(UserError, match="were had"):
        HostStore(experts_of(tiny("olmoe")), pinned=True, host=Host(free=lambda: next(rooms)))
    assert len(cuda.of("register")) == 2
    assert cuda.of("unregister") == cuda.of("register")[::-1]


def test_a_store_is_closed_where_the_dense_part_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, model = Cudart(monkeypatch), tiny("olmoe")

    def refuse(*_: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(model, "to", refuse)
    backend = Backend()
    backend.device = torch.device("cuda:0")
    monkeypatch.setattr(offloaded, "backend_of", lambda device: backend)
    said = r"^the model's dense part does not fit on cuda:0; allowed: a larger device$"
    with pytest.raises(DeviceError, match=said) as caught:
        Offloaded(model, torch.device("cuda"))
    assert caught.traceback, "which holds the store"
    assert cuda.of("unregister") == cuda.of("register")[::-1] != []


def test_a_device_that_has_failed_still_gives_the_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cudart(monkeypatch)
    store = HostStore(experts_of(tiny("olmoe")), pinned=True)

    def failed(device: int) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access")

    monkeypatch.setattr(torch.cuda, "synchronize", failed)
    store.close()
    assert cuda.of("unregister") == cuda.of("register")[::-1]


def test_random_experts_are_the_same_in_every_layer() -> None:
    """Drawn once, and copied over the others of every layer."""
    model, made = tiny("olmoe", num_hidden_layers=2), tiny("olmoe", num_hidden_layers=2)
    for module, other in zip(experts_of(model), experts_of(made), strict=True):
        module.to("meta")
        for weights in other.parameters():
            draw(weights.data[0])
            weights.data[1:] = weights.data[0]
    drawn, expected = (HostStore(experts_of(each), pinned=False) for each in (model, made))
    for block, wanted in zip(drawn.blocks, expected.blocks, strict=True):
        assert torch.equal(block, wanted)
        assert block[0].any()
        assert (block == block[0]).all()
