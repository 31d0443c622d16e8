"""The weights of a masked gate, by hand from each family's law."""

from typing import Any

import numpy as np
import pytest
import torch

from real.runtime.offloaded import masked_weights
from traces.models.scoring import Law

PROBS = torch.tensor([[0.5, 0.25, 0.125, 0.125], [0.125, 0.25, 0.125, 0.5]])
GIVEN = torch.tensor([[0.5, 0.25], [0.5, 0.25]])
NONE = 4


@pytest.mark.parametrize(
    ("law", "ids", "wanted", "given"),
    [
        # A plain softmax is over those that are allowed: of the 0.375 that 1 and 2 have, 1 has 2/3, more than its 0.25.
        (Law("softmax", normalised=False), [[1], [2]], [[2 / 3], [1 / 3]], {}),
        (Law("softmax", normalised=False, factor=2.5), [[1], [2]], [[5 / 3], [5 / 6]], {}),
        # A family that divides by the sum of the chosen divides by theirs.
        (Law("softmax", normalised=True), [[0, 1], [1, 2]], [[2 / 3, 1 / 3]] * 2, {"allowed": [1, 1, 1, 0]}),
        # Who is missing weighs nothing, and is not in the sum.
        (Law("softmax", normalised=False), [[1, NONE], [NONE, 1]], [[1, 0], [0, 1]], {"allowed": [0, 1, 0, 0]}),
        (Law("softmax", normalised=True), [[1, NONE], [NONE, 1]], [[1, 0], [0, 1]], {"allowed": [0, 1, 0, 0]}),
        # A family whose factor is not known gives as much in all as before: 0.75.
        (Law("softmax", normalised=None), [[1, NONE], [NONE, 1]], [[0.75, 0], [0, 0.75]], {"allowed": [0, 1, 0, 0]}),
        # Sigmoid scores do not feel the mask.
        (
            Law("sigmoid", normalised=False, factor=2.0, bias=torch.full((4,), 5.0)),
            [[1, 2], [2, NONE]],
            [[0.5, 0.25], [0.25, 0]],
            {"logits": PROBS.logit()},
        ),
        (Law("sigmoid", normalised=True), [[1, 2], [2, NONE]], [[2 / 3, 1 / 3], [1, 0]], {"logits": PROBS.logit()}),
        # What has underflown weighs nothing, in a trace, whose scores are float16.
        (
            Law("softmax", normalised=False),
            [[1, 2], [2, 1]],
            [[0, 0], [0, 0]],
            {"logits": torch.tensor([[1.0, 0.0, 0.0, 0.0]] * 2).log()},
        ),
        # SparseMixer runs among those that are left. Jitter 0.25: near the best is what lies within half of the larger
        # of its own size and the best's. 8 is masked: of 4, 3 and 1 the first is 4, near it 3; then 3 alone, as 1 is
        # (3 - 1) / 3 away.
        (
            Law("softmax", normalised=False, jitter=0.25),
            [[1, 2], [1, 2]],
            [[np.exp(4) / (np.exp(4) + np.exp(3)), 1.0]] * 2,
            {"logits": torch.tensor([[8.0, 4.0, 3.0, 1.0]] * 2), "allowed": [0, 1, 1, 1]},
        ),
    ],
)
def test_weights_among_those_that_are_allowed(law: Law, ids: Any, wanted: Any, given: dict[str, Any]) -> None:
    allowed = np.array(given.get("allowed", [0, 1, 1, 0]), bool)
    found = masked_weights(law, given.get("logits", PROBS.log()), GIVEN, np.array(ids), allowed)
    assert found == pytest.approx(np.array(wanted))
