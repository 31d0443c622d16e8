"""The weights of a masked gate, by hand from each family's law."""

from typing import Any

import numpy as np
import pytest
import torch

from real.runtime.offloaded import masked_weights
from traces.models.scoring import Law

PROBS = [[0.5, 0.25, 0.125, 0.125], [0.125, 0.25, 0.125, 0.5]]
GIVEN = torch.tensor([[0.5, 0.25], [0.5, 0.25]])
ALLOWED = np.array([False, True, True, False])
NONE = 4


def weigh(law: Law, ids: Any, logits: Any = None, allowed: Any = ALLOWED) -> Any:
    logits = torch.tensor(PROBS).log() if logits is None else logits
    return masked_weights(law, logits, GIVEN, np.array(ids), np.asarray(allowed)).tolist()


def test_a_plain_softmax_is_over_the_virtual_experts_alone() -> None:
    # Of the 0.375 that experts 1 and 2 have, 1 has 2/3: more than its 0.25.
    law = Law("softmax", normalised=False)
    assert weigh(law, [[1], [2]]) == pytest.approx(np.array([[2 / 3], [1 / 3]]))
    assert weigh(Law("softmax", normalised=False, factor=2.5), [[1], [2]]) == pytest.approx(
        np.array([[5 / 3], [5 / 6]])
    )


def test_a_family_that_divides_by_the_sum_of_the_chosen_divides_by_theirs() -> None:
    law = Law("softmax", normalised=True)
    allowed = [True, True, True, False]
    assert weigh(law, [[0, 1], [1, 2]], allowed=allowed) == pytest.approx(np.array([[2 / 3, 1 / 3], [2 / 3, 1 / 3]]))


@pytest.mark.parametrize("normalised", [False, True, None])
def test_who_is_missing_weighs_nothing_and_is_not_in_the_sum(normalised: bool | None) -> None:
    one = weigh(Law("softmax", normalised=normalised), [[1, NONE], [NONE, 1]], allowed=[False, True, False, False])
    # A family whose factor is not known gives as much in all as before: 0.75.
    share = 0.75 if normalised is None else 1.0
    assert one == pytest.approx(np.array([[share, 0], [0, share]]))


def test_sigmoid_scores_do_not_feel_the_mask() -> None:
    logits = torch.tensor(PROBS).logit()
    law = Law("sigmoid", normalised=False, factor=2.0, bias=torch.full((4,), 5.0))
    assert weigh(law, [[1, 2], [2, NONE]], logits) == pytest.approx(np.array([[0.5, 0.25], [0.25, 0]]))
    law = Law("sigmoid", normalised=True)
    assert weigh(law, [[1, 2], [2, NONE]], logits) == pytest.approx(np.array([[2 / 3, 1 / 3], [1, 0]]))


def test_what_has_underflown_weighs_nothing() -> None:
    """In a trace, whose scores are float16."""
    logits = torch.tensor([[1.0, 0.0, 0.0, 0.0]] * 2).log()
    assert weigh(Law("softmax", normalised=False), [[1, 2], [2, 1]], logits) == [[0, 0], [0, 0]]


def test_sparsemixer_runs_among_those_that_are_left() -> None:
    # Jitter 0.25: near the best is what lies within half of the larger of its own size and the best's.
    law = Law("softmax", normalised=False, jitter=0.25)
    logits = torch.tensor([[8.0, 4.0, 3.0, 1.0]] * 2)
    # 8 is masked: of 4, 3 and 1 the first is 4, near it 3; then 3 alone, as 1 is (3 - 1) / 3 away.
    shares = np.exp([4.0, 3.0])
    assert weigh(law, [[1, 2], [1, 2]], logits, [False, True, True, True]) == pytest.approx(
        np.array([[shares[0] / shares.sum(), 1.0]] * 2)
    )
