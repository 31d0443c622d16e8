"""MoE-Infinity: what past requests with alike activations used next."""

from policies.moe_infinity.policy import MoEInfinity as MoEInfinity
