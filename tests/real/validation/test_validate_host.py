"""What the host computed on the device, beside what the simulator says of it."""

import io
from collections.abc import Sequence
from typing import Any

import pytest
from rich.console import Console
from rich.markdown import Markdown

from policies.api import LayerEvent
from policies.static_split import StaticSplit
from real.runtime.models import Where
from real.validation import compare as comparing
from real.validation.bench import with_threads
from real.validation.compare import compare, decides, judge
from real.validation.ran import Ran, runtime_digest
from real.validation.verdict import criteria, markdown
from real.validation.writing import document_of, provenance
from sim.experiment.cell import Cell, make_cell, make_policy
from sim.experiment.compose import read_config
from sim.prices import shipped
from tests.real.validation.cases import config, tiny

SLOW_LINK = ("hardware.link.h2d_gb_per_s=0.02", "hardware.link.overhead_us=2000")
"""With the first alone the host is the faster way for what few tokens want and is not there."""


@pytest.fixture(scope="module")
def split() -> tuple[Cell, dict[str, Any]]:
    cell = make_cell(config("policy=static_split", "budget=40%", "hardware.host.workers=2"))
    return cell, compare(cell, tiny()[2])[0]


def same(row: dict[str, Any]) -> None:
    """All that is counted is equal, to the last one: replayed, and simulated."""
    assert row["replay"]["agrees"]
    assert row["replay"]["accounts_agree"], row["replay"]["unlike"]
    device, simulated = row["device"], row["simulated"]
    assert device["totals"]["host_lookups"] == simulated["totals"]["host_lookups"] > 0
    assert device["totals"]["lookups"] > device["totals"]["host_lookups"]
    assert device["hit_rate"] == simulated["hit_rate"]
    assert device["totals"]["demand_bytes"] == simulated["totals"]["demand_bytes"]
    assert device["totals"]["host_ns"] > 0
    assert [it["holds"] for it in criteria([row]) if it["name"].endswith("s_worst")] == [True]
    assert [it["holds"] for it in criteria([row]) if it["name"] == "host_worst"] == [True]


def test_the_host_computes_on_the_device_what_it_does_in_the_simulator(split: tuple[Cell, dict[str, Any]]) -> None:
    same(split[1])
    assert split[1]["device"]["slots"]["host_workers"] == 2


def test_so_it_does_where_prices_decide() -> None:
    """A prompt's experts are fetched, and of a token's the host computes what is not there."""
    words = ["policy.preload=false", "budget=50%", "model=tiny-moe", "limit=1", "bounds=false", SLOW_LINK[0]]
    cell = make_cell(read_config(["policy=fiddler", "hardware=rtx_4090", *words]))
    row, _ = compare(cell, Where("cpu").open("tiny-moe", "float32"))
    same(row)


def test_who_places_by_prices_is_told_the_device_s_in_the_simulator_too() -> None:
    """What was measured after the run prices the machine; the policy decided by what it had been told."""

    class Dear(StaticSplit):
        """Leaves to the host what is dear to copy."""

        def place(self, event: LayerEvent) -> Sequence[int]:
            return event.demand if self.setup.costs.copy_ns(100) > 10**6 else super().place(event)

    def make(cell: Cell) -> Dear:
        return Dear(cell.setup)

    cell, priced = (make_cell(config("policy=static_split", "budget=100%", *more)) for more in (SLOW_LINK, ()))
    run = comparing.run_forced(cell, tiny()[2], make(cell))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparing, "make_policy", make)
        row, _ = judge(cell, [Ran.of(cell, run)], priced)
    for side in ("device", "simulated"):
        assert row[side]["totals"]["host_lookups"] == row[side]["totals"]["lookups"]


def test_a_host_that_has_computed_otherwise_is_found() -> None:
    cell = make_cell(config("policy=static_split", "budget=40%"))
    run = comparing.run_forced(cell, tiny()[2], make_policy(cell))
    run.outcome.accounts.host_lookups += 1
    row, _ = judge(cell, [Ran.of(cell, run)])
    assert row["replay"]["unlike"] == ["host_lookups"]
    assert [(it["value"], it["holds"]) for it in criteria([row]) if it["name"] == "host_worst"] == [(1, False)]


def test_the_table_says_what_the_host_computed(split: tuple[Cell, dict[str, Any]]) -> None:
    cell, row = split
    device = dict.fromkeys(("device", "host", "torch", "transformers"), "here")
    plain, _ = compare(make_cell(config("policy=lru", "budget=40%")), tiny()[2])
    about = provenance(cell, device, "random", "", 1, "today", runtime_digest())
    text = markdown(document_of([row, plain], [], about))
    (line,) = [line for line in text.partition("Experts on the host")[2].splitlines() if "static_split" in line]
    assert line.count(f" {row['device']['totals']['host_lookups']:,} |") == 2
    assert "lru" not in text.partition("Experts on the host")[2]
    assert "Experts on the host" not in markdown(document_of([plain], [], about))
    console = Console(file=io.StringIO(), width=80)
    console.print(Markdown(markdown(document_of([row, plain], [], about), 80)))
    assert max(map(len, console.file.getvalue().splitlines())) <= 80  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("compute", "copies", "host", "said"),
    [(6, 2, 2, "software"), (4, 2, 3, "host"), (4, 3, 2, "link"), (4, 3, 3, "link"), (5, 0, 5, "software")],
)
def test_what_decides_is_what_is_waited_for_the_longer(compute: int, copies: int, host: int, said: str) -> None:
    stalls = {"demand_copy": copies, "late_prefetch": 0, "queueing": 0, "predictor": 0, "cpu_experts": host}
    assert decides({"totals": {"wall_ns": compute + copies + host, "stall_ns": stalls}}) == said


# Whether what is copied ahead comes in time depends on the clock: it failed a criterion that says otherwise.
def test_what_is_copied_ahead_is_not_held_to_the_simulator() -> None:
    def row(ahead: int) -> dict[str, Any]:
        errors = {"tpot_ms": {"error": 0.1}, "hit_complete": {"error": 0.2}, "hit_recall": {"device": None}}
        side = {"totals": {"speculative_bytes": {"useful": ahead, "late": 0}, "host_lookups": 5 + ahead}}
        return {"decides": "host", "errors": errors, "link": {"of_table": None}, "device": side, "simulated": side}

    found = {it["name"]: it for it in criteria([row(0), row(7)])}
    assert (found["hits_worst"]["cells"], found["host_worst"]["cells"], found["tpot_host"]["cells"]) == (1, 1, 2)


def test_the_prices_are_of_the_threads_that_there_are() -> None:
    import torch

    found = with_threads(dict(shipped("hardware", "h200")))
    assert found["host"]["cpu_threads"] == torch.get_num_threads() == 1
