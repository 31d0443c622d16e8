"""The laws of a trace's values: what the reader finds fast is what a look at each value finds."""

import numpy as np
import pytest
from numpy.typing import NDArray

from traces.format.check import check_rows
from traces.format.layout import absent_id
from traces.kit.errors import TraceError

L, E, K = 2, 5, 3
HALVES: NDArray[np.float16] = np.arange(2**16, dtype=np.uint16).view(np.float16)
"""All numbers of float16 that there are."""


def refused(n_experts: int = E, **arrays: NDArray[np.generic]) -> str | None:
    try:
        check_rows(dict(arrays), n_experts)
    except TraceError as error:
        return str(error)
    return None


def by_looking(ids: NDArray[np.uint8]) -> bool:
    """Whether rows of ids keep their laws, one by one."""
    absent = absent_id(E)
    for row in ids.reshape(-1, K).tolist():
        there = [expert for expert in row if expert != absent]
        if row[: len(there)] != there or len({*there}) != len(there) or any(expert >= E for expert in there):
            return False
    return True


def test_ids_are_judged_as_one_by_one() -> None:
    rng = np.random.default_rng(0)
    values = np.array([0, 1, 2, 3, 4, 4, absent_id(E), absent_id(E), 5], np.uint8)
    judged = []
    for _ in range(300):
        ids = rng.permuted(values[: rng.integers(3, 10)], axis=0)[None, :K].repeat(L, 0)[None]
        ids[0, 1] = rng.choice(values, K)
        judged.append(by_looking(ids))
        assert (refused(expert_ids=ids) is None) == judged[-1], ids
    assert 30 < sum(judged) < 270


def test_shares_are_0_to_1_in_every_bit_pattern() -> None:
    good = (HALVES >= 0) & (HALVES <= 1)
    assert refused(router_probs=HALVES[good].reshape(-1, 1, 1)) is None  # -0 among them
    for bad in [*HALVES[~good][::997], np.nan, np.inf, -np.inf, np.nextafter(np.float16(1), np.float16(2))]:
        error = refused(router_probs=np.array([[[0.5, 1, 0, 0, 0], [0, bad, 1, 0, 0]]], np.float16))
        assert error is not None
        assert "row 0, layer 1, expert 1" in error


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ([0.5, 0.25, 0], None),
        ([0.5, -0.0, 0], None),
        ([0.0, -0.0, 0], None),
        ([0.25, 0.5, 0], "slot 1"),
        ([0.5, np.nan, 0], "slot 1"),
        ([np.inf, 0.5, 0], "slot 0"),
        ([0.5, 0.25, -1e-7], "slot 2"),
        ([0.5, 0.25, 1e-7], "slot 2"),  # of an absent expert
    ],
)
def test_weights_are_finite_and_fall_and_none_is_of_an_absent_expert(weights: list[float], said: str | None) -> None:
    ids = np.array([[[0, 1, absent_id(E)]] * L], np.uint8)
    rows = np.array([[[1, 0.5, 0], weights]], np.float16)
    error = refused(expert_ids=ids, expert_weights=rows)
    assert (error is None) == (said is None)
    assert said is None or f"row 0, layer 1, {said}" in str(error)


def test_weights_are_not_passed_over_where_nobody_is_named() -> None:
    with pytest.raises(KeyError):
        refused(expert_weights=np.full((1, L, K), np.nan, np.float16))
