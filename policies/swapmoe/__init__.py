"""SwapMoE: a few virtual experts stand in for all."""

from policies.swapmoe.policy import SwapMoE as SwapMoE
