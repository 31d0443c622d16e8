"""``python -m real``."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    from moe_offload import ours_first

    ours_first(Path(__file__).resolve().parents[1])
    from real.cli import main

    sys.exit(main())
