"""Figures of a result, worked out by hand: the link's share of the time, and bounds before and after a warm-up."""

from pathlib import Path

import pytest

from sim.experiment.run import run_config
from tests.sim.small_trace import MACHINE, SIZE, Plan, config, one_layer, write

COPY, COMPUTE = 12, 4  # ns for one expert


def test_link_utilisation_is_the_share_of_the_time_that_the_link_copies(tmp_path: Path) -> None:
    """Experts 0, 1, 0, 1, 1 with room for both: two copies and five computations, one after the other."""
    trace = one_layer(tmp_path / "t", [Plan((1,), 4)], [0, 1, 0, 1, 1])
    result = run_config(config(trace, 2 * SIZE), tmp_path / "out").document
    assert result["totals"]["wall_ns"] == 2 * COPY + 5 * COMPUTE
    assert result["totals"]["compute_ns"] == 5 * COMPUTE
    assert result["link_utilisation"] == 24 / 44
    assert result["throughput_tokens_per_s"] == pytest.approx(5 / 44e-9)
    assert result["bytes_per_token"]["demand"] == 2 * SIZE / 5


def test_the_link_copies_while_experts_are_computed(tmp_path: Path) -> None:
    """A prefill of four experts: copies from 0 to 48 without a pause, the last one computed to 52."""
    trace = one_layer(tmp_path / "t", [Plan((4,), 0)], [0, 1, 2, 3])
    result = run_config(config(trace, 4 * SIZE), tmp_path / "out").document
    assert result["totals"]["wall_ns"] == 4 * COPY + COMPUTE
    assert result["totals"]["compute_ns"] == 4 * COMPUTE
    assert result["totals"]["stall_ns"]["demand_copy"] == 4 * COPY + COMPUTE - 4 * COMPUTE
    assert result["link_utilisation"] == 48 / 52


def test_only_what_the_link_copies_within_the_window_is_its_share(tmp_path: Path) -> None:
    """Two layers, 2 ns to compute. The gate of layer 0 foretells an expert, and that of layer 1 demands another one.

    Copies of the first token: 0 to 12, the foretold 7 to 24, 5 to 36; computed 12-14 and 36-38. The second finds 0 and
    5, computes 38-40 and 40-42, and begins to copy the foretold 6 at 38, to 50. The third computes 42-44 and 44-46.
    """
    ids, ahead = [[[0], [1]]] * 3, [[[[x]], [[255]]] for x in (3, 2, 2)]
    trace = write(tmp_path / "t", [Plan()] * 3, ids, n_experts=4, signals={"gate_ahead": ahead})
    machine = MACHINE | {"gpu": MACHINE["gpu"] | {"hbm_gb_per_s": 6}}
    spans = {(0, 1): 36 / 38, (0, 2): 40 / 42, (0, 3): 44 / 46, (1, 1): 4 / 4, (2, 1): 4 / 4}
    for (warmup, limit), share in spans.items():
        given = config(trace, 8 * SIZE, policy="gate_ahead", hardware=machine, warmup=warmup, limit=limit)
        assert run_config(given, tmp_path / "out").document["link_utilisation"] == share, (warmup, limit)


@pytest.mark.parametrize(("warmup", "copied", "bound"), [(0, 5, 5), (1, 3, 1)])
def test_after_a_warm_up_the_bound_begins_with_what_it_likes(
    tmp_path: Path, warmup: int, copied: int, bound: int
) -> None:
    """Room for two experts; the warm-up, or else the run, begins with 0 1, and 2 3 2 3 1 follow.

    From nothing, all four are copied, and 1 again. In a window after the warm-up LRU copies 2, 3 and 1, and so would
    whoever began with nothing; the bound begins with 2 and 3 there, and copies 1.
    """
    trace = one_layer(tmp_path / "t", [Plan((1,), 1), Plan((1,), 4)], [0, 1, 2, 3, 2, 3, 1])
    result = run_config(config(trace, 2 * SIZE, warmup=warmup, bounds=True), tmp_path / "out").document
    assert result["totals"]["demand_bytes"] == copied * SIZE
    assert result["bounds"]["belady_bypass"]["bytes"] == bound * SIZE
    assert result["bounds"]["belady_bypass"]["gap"] == copied / bound
    assert result["bounds"]["time_lower_bound"]["link_ms"] == pytest.approx(bound * COPY * 1e-6)


def test_the_bound_after_a_warm_up_may_be_nothing_at_all(tmp_path: Path) -> None:
    """The window needs 0 and 1, and there is room for both: a cold bound would be two experts."""
    trace = one_layer(tmp_path / "t", [Plan((1,), 1), Plan((1,), 2)], [0, 1, 0, 1, 0])
    warm = run_config(config(trace, 2 * SIZE, warmup=1, bounds=True), tmp_path / "out").document
    assert warm["bounds"]["belady_bypass"] == {"bytes": 0, "bytes_per_token": 0.0, "gap": None}
    assert warm["totals"]["demand_bytes"] == 0
    assert warm["bounds"]["time_lower_bound"]["wall_ms"] == pytest.approx(3 * COMPUTE * 1e-6)
    assert warm["bounds"]["time_lower_bound"]["gap"] == 1.0
    cold = run_config(config(trace, 2 * SIZE, bounds=True), tmp_path / "out").document
    assert cold["bounds"]["belady_bypass"]["bytes"] == 2 * SIZE


def test_reference_rows_foresee_the_warm_up_too(tmp_path: Path) -> None:
    """Belady, forced: 0 1 | 0 2 0 1 with room for two: it keeps 0 throughout, and copies 2 and 1 in the window."""
    trace = one_layer(tmp_path / "t", [Plan((1,), 1), Plan((1,), 3)], [0, 1, 0, 2, 0, 1])
    result = run_config(config(trace, 2 * SIZE, warmup=1, bounds=True), tmp_path / "out").document
    assert result["reference"]["belady_forced"]["link_bytes"] == 2 * SIZE
    assert result["bounds"]["belady_bypass"]["bytes"] == 1 * SIZE
    assert result["reference"]["infinite"]["link_bytes"] == 1 * SIZE
