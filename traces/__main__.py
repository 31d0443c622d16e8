"""``python -m traces``."""

import sys

from traces.cli import main

if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        # A path may hold bytes that are no text.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.exit(main(sys.argv[1:]))
