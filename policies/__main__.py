"""``python -m policies``."""

import sys
from pathlib import Path

if __name__ == "__main__":
    from moe_offload import ours_first

    ours_first(Path(__file__).resolve().parents[1])
    from policies.cli import main

    sys.exit(main(sys.argv[1:]))
