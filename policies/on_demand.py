"""No cache at all."""

from policies.api import Policy


class OnDemand(Policy):
    """Copy every expert that a gate demands, and drop it as soon as it has been computed.

    What Pre-gated MoE (arXiv 2308.12066) calls MoE-OnDemand, and the floor of every comparison: no hits, ever.
    O(1) per lookup; no ties, since nothing is chosen. Lossless; needs no signals.
    """

    name = "on_demand"
    title = "on-demand"

    def keep(self, expert: int) -> bool:
        return False

    def victim(self, incoming: int, speculative: bool) -> int | None:
        return None  # whatever holds a slot is pinned
