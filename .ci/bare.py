"""Run a command as on a machine that has little: from a checkout that is not installed, without the packages named.

python .ci/bare.py CHECKOUT hydra,pandas real measure out=DIR ...
"""

import importlib.metadata
import runpy
import sys
from pathlib import Path
from typing import Any

OURS = "moe-offload-workbench"


def main() -> None:
    checkout, without, *words = sys.argv[1:]
    root = Path(__file__).resolve().parents[1]
    sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")]
    sys.path[:] = [checkout, *(entry for entry in sys.path if Path(entry).resolve() not in (root, root / ".ci"))]
    for name in without.split(","):
        if name in sys.modules:
            raise SystemExit(f"{name} is imported already")
        sys.modules[name] = None  # type: ignore[assignment]  # importing it fails, as if it were not there
    there = importlib.metadata.distribution

    def distribution(name: str) -> Any:
        if name == OURS:
            raise importlib.metadata.PackageNotFoundError(name)
        return there(name)

    importlib.metadata.distribution = distribution
    sys.argv = words
    runpy.run_module(words[0], run_name="__main__")


if __name__ == "__main__":
    main()
