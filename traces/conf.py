"""Where the shipped configuration lies: beside this package, in a checkout as in a wheel.

It is found by file. By import name, a folder called ``conf`` in the user's own would be found in its place.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "conf"


def names(group: str) -> set[str]:
    """The names that a group (policy, model, hardware, workload, experiment) has: its files, without ``.yaml``."""
    return {path.stem for path in (FOLDER / group).iterdir() if path.suffix == ".yaml"}
