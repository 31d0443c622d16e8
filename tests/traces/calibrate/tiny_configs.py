"""Configurations of tiny models: the calibrator draws their weights itself."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.traces.models.tiny import FAMILIES

CONFIGS = {name: {"model_type": of, **sizes, "num_experts_per_tok": 2} for name, (of, sizes) in FAMILIES.items()}
MIXTRAL = CONFIGS["mixtral"]


def write_config(folder: Path, config: Mapping[str, Any]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder
