"""``python -m real``."""

from __future__ import annotations

import sys

from real.cli import main

if __name__ == "__main__":
    sys.exit(main())
