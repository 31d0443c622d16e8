"""Where what is shipped lies, in a checkout as in a wheel: the configuration, tiny-moe, the sample trace.

It is found by file. By import name, a folder called ``conf`` in the user's own would be found in its place.
"""

from pathlib import Path
from typing import Any

import yaml

_TRACES = Path(__file__).resolve().parents[1]
FOLDER = _TRACES.parent / "conf"
MODEL_DIR, PROMPTS_FILE = _TRACES / "tiny_moe" / "model", _TRACES / "tiny_moe" / "prompts.jsonl"
SAMPLE_DIR = _TRACES / "sample"


def names(group: str) -> set[str]:
    """The names that a group (policy, model, hardware, workload, experiment) has: its files, without ``.yaml``."""
    return {path.stem for path in (FOLDER / group).iterdir() if path.suffix == ".yaml"}


def model_sizes(name: str) -> tuple[int, int, int] | None:
    """Return L, E and K of a model of ``conf/model``; None where there is none of that name with sizes of its own."""
    layers, experts, top_k = (_model(name).get(key) for key in ("moe_layers", "experts", "top_k"))
    return (layers, experts, top_k) if layers and experts and top_k else None


def model_title(name: str) -> str:
    """What people call a model of ``conf/model``; the name itself where there is none of it."""
    return str(_model(name).get("title") or name)


def _model(name: str) -> dict[str, Any]:
    path = FOLDER / "model" / f"{name}.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8")) if name in names("model") else {}
