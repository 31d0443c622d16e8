"""What the steps share: models that come and go as there is room; and cells, begun only where their time is left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from policies import registry
from policies.api import Policy
from real.measure import served
from real.measure.bench import FULL, HOST, LINK, MAIN, TINY, Bench
from real.measure.clock import Clock, OutOfTimeError
from real.measure.steps import STEPS
from real.runtime.models import Where
from traces.kit.errors import UserError


class Stub:
    """A model in host memory that has room for one: it knows who is there."""

    there: list[Stub] = []  # noqa: RUF012 - emptied by each test
    room = 1

    def __init__(self, name: str) -> None:
        if len(self.there) >= self.room:
            raise UserError("no room")
        self.name, self.store = name, SimpleNamespace(close=lambda: self.there.remove(self))
        self.there.append(self)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    Stub.there.clear()
    monkeypatch.setattr(Where, "open", lambda self, name, *_: Stub(name))
    monkeypatch.setattr(Bench, "_warm", lambda *_: None)
    made = Bench(tmp_path, torch.device("cpu"), Clock(60))
    made.size = FULL
    return made


def test_a_model_is_dropped_where_there_is_no_room_for_another_beside_it(bench: Bench) -> None:
    for which in (MAIN, LINK, MAIN):
        name: Any = bench.model(which)
        assert name.name == bench.subject(which).model
        assert Stub.there == [name]
        assert bench.model(which) is name


def test_models_stay_where_there_is_room(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stub, "room", 2)
    first, second = bench.model(MAIN), bench.model(LINK)
    assert (bench.model(MAIN), bench.model(LINK)) == (first, second)
    monkeypatch.setattr(Stub, "room", 0)
    bench.drop()
    assert Stub.there == []
    with pytest.raises(UserError, match="no room"):
        bench.model(MAIN)


def test_a_cell_is_not_begun_where_the_longest_one_would_not_end(bench: Bench) -> None:
    bench.longest[MAIN] = 60
    with pytest.raises(OutOfTimeError):
        served.cells(bench)


def test_the_host_s_cells_are_of_the_main_model_and_of_fewer_requests(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stub, "room", 1)
    assert bench.model(HOST) is bench.model(MAIN)
    for size in (FULL, TINY):
        bench.size = size
        main = bench.subject(MAIN).limit
        assert main is not None
        assert bench.subject(HOST).limit == min(main, 2)
        assert replace(bench.subject(HOST), limit=main) == bench.subject(MAIN)


def test_the_host_s_cells_are_of_policies_that_use_it() -> None:
    names = {name for name, _ in FULL.host_grid}
    assert {"fiddler", "static_split"} <= names <= {*registry.names()}
    assert all(registry.find(name).place is not Policy.place for name in names)
    assert names.isdisjoint(name for name, _ in FULL.grid)
    (host,) = (step for step in STEPS if step.name == "host")
    assert list(host.leaves(SimpleNamespace(size=FULL))) == served.files(FULL.host_grid, "host")  # type: ignore[arg-type]
