"""fMoE, later called FineMoE: prefetching and eviction by the expert maps of iterations that were alike."""

from policies.fmoe.policy import FMoE as FMoE
