"""Evict what is least likely to be used soon; :mod:`policies.next_use.fit` learns how likely that is."""

from policies.next_use.policy import NextUse as NextUse
