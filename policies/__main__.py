"""``python -m policies``."""

import sys

if __name__ == "__main__":
    from policies.cli import main

    sys.exit(main(sys.argv[1:]))
