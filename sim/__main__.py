"""Entry point of ``python -m sim``."""

import sys
from pathlib import Path

if __name__ == "__main__":
    try:
        from moe_offload import ours_first

        ours_first(Path(__file__).resolve().parents[1])
        from sim.cli import main

        sys.exit(main())
    except KeyboardInterrupt:  # before the command had begun
        sys.exit(130)
