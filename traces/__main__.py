"""``python -m traces``."""

import sys
from pathlib import Path

if __name__ == "__main__":
    from moe_offload import ours_first

    ours_first(Path(__file__).resolve().parents[1])
    from traces.cli import main

    for stream in (sys.stdout, sys.stderr):
        # A path may hold bytes that are no text.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.exit(main(sys.argv[1:]))
