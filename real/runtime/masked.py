"""What a family's gate gives where it may choose among some experts alone: the weights that a lossy policy asks for."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from policies.api import LayerEvent
from traces.models.families import MoeModel
from traces.models.scoring import Law

Gate = Callable[[int, Law], tuple[Tensor, Tensor] | None]


class MaskedGate:
    """policies.api.MaskedWeights of the ``event`` that is under way. ``gate(layer, law)``: that of the Feed."""

    def __init__(self, moe: MoeModel, event: LayerEvent, gate: Gate) -> None:
        self.moe, self.event, self.gate = moe, event, gate

    def __call__(self, ids: NDArray[np.int64], allowed: NDArray[np.bool_]) -> NDArray[np.float32]:
        """RuntimeError where the policy has not declared that it reads the router's scores."""
        layer = self.event.layer
        law = self.moe.layers[layer].law
        known = self.gate(layer, law)
        if known is None:
            raise RuntimeError("masked_weights was asked for by a policy that does not declare router_probs")
        return masked_weights(law, *known, ids, allowed)


def masked_weights(
    law: Law, logits: Tensor, given: Tensor, ids: NDArray[np.int64], allowed: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """The weights [n, K'] of ``ids`` [n, K'] (E: none, of weight 0) by a family's law, as if the logits of experts that
    are not ``allowed`` [E] were -inf.

    ``logits`` [n, E]: the gate's own, of which ``given`` [n, K] are the weights that came of them. So softmax is over
    those that are allowed, and a family that does not divide by the sum over its K gives them more than before.
    """
    device, n_experts = logits.device, logits.shape[-1]
    # One more expert that nobody may choose stands for none: its score is 0, whatever the law.
    closed = torch.from_numpy(~np.append(allowed, False)).to(device)
    masked = torch.nn.functional.pad(logits, (0, 1)).masked_fill(closed, float("-inf"))
    chosen = torch.from_numpy(ids).to(device)
    weights = law.weights(masked, law.scores(masked), chosen, given.to(device)).float()
    real = (chosen < n_experts) & weights.isfinite()  # not finite: all that is allowed has underflown
    weights = torch.where(real, weights, 0.0)
    found: NDArray[np.float32] = weights.cpu().numpy()
    return found
