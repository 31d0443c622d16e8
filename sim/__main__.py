"""Entry point of ``python -m sim``."""

import sys

if __name__ == "__main__":
    try:
        from sim.cli import main

        sys.exit(main())
    except KeyboardInterrupt:  # before the command had begun
        sys.exit(130)
