"""Evict what is least likely to be used soon; :mod:`policies.learned_use.fit` learns how likely that is."""

from policies.learned_use.policy import LearnedUse as LearnedUse
