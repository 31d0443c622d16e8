"""Host memory that does not hold all experts: a tier between the GPU and a disk (docs/design.md, The machine model)."""

HOST_POLICIES = ("lru", "fifo", "lfu", "lfu_incache", "lfru", "random")
"""Who may decide what stays in host memory: caching policies that need no signals."""
HOST_TIERS = ("inclusive", "exclusive")
