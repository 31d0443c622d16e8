"""``python -m real``."""

from moe_offload import start

if __name__ == "__main__":
    start("real")
