"""Where the shipped configuration lies: beside this package, in a checkout as in a wheel.

It is found by file. By import name, a folder called ``conf`` in the user's own would be found in its place.
"""

from pathlib import Path

import yaml

FOLDER = Path(__file__).resolve().parents[2] / "conf"


def names(group: str) -> set[str]:
    """The names that a group (policy, model, hardware, workload, experiment) has: its files, without ``.yaml``."""
    return {path.stem for path in (FOLDER / group).iterdir() if path.suffix == ".yaml"}


def model_sizes(name: str) -> tuple[int, int, int] | None:
    """Return L, E and K of a model of ``conf/model``; None where there is none of that name with sizes of its own."""
    if name not in names("model"):
        return None
    model = yaml.safe_load((FOLDER / "model" / f"{name}.yaml").read_text(encoding="utf-8"))
    sizes = tuple(model.get(key) for key in ("moe_layers", "experts", "top_k"))
    return sizes if all(isinstance(size, int) for size in sizes) else None


def model_title(name: str) -> str:
    """What people call a model of ``conf/model``; the name itself where there is none of it."""
    if name not in names("model"):
        return name
    return str(yaml.safe_load((FOLDER / "model" / f"{name}.yaml").read_text(encoding="utf-8")).get("title") or name)
