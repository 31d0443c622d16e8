"""ProMoE: learned predictions, proactive copies; :mod:`policies.promoe.fit` fits what it predicts with."""

from policies.promoe.policy import ProMoE as ProMoE
