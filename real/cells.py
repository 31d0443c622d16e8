"""Write what a machine without Hydra is to run: resolved configurations for ``real/GPU.md``, and a synthetic trace.

python -m real.cells [folder=.text/cells]
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from real.synthetic import draw
from sim.config import dump_configs
from traces.collect.options import parse_options

MIXTRAL_LAYERS = 8
"""Of 32: the experts of all would take 90 GB of host memory."""
PROFILED = ("policy=lru,gate_ahead,promoe,fmoe", "budget=25%,50%,75%")


@dataclass(frozen=True)
class Options:
    folder: str = ".text/cells"


def write(folder: Path) -> list[Path]:
    """Make the folder anew; returns what is in it."""
    from sim.sweep.plan import read_grid  # Hydra: here, and not where the cells are run

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    uniform = draw(folder / "uniform", (MIXTRAL_LAYERS, 8, 2), "mixtral_shape", [(32, 24), (96, 24)], 1)
    tiny = draw(folder / "tiny", (16, 64, 8), "reference_shape", [(8, 4)], 1)
    olmoe = ["model=olmoe_1b_7b", "trace=sample", "limit=4", "warmup=1", "bounds=false"]
    mixtral = ["model=mixtral_8x7b", f"model.moe_layers={MIXTRAL_LAYERS}", f"trace={uniform}", "bounds=false"]
    grids = {
        "olmoe_1b_7b": [[*olmoe, *PROFILED], [*olmoe, "policy=on_demand", "budget=25%"]],
        "mixtral_8x7b": [[*mixtral, "policy=lru,lfu,on_demand", "budget=25%,50%,75%"]],
        "peers": [[*olmoe, "policy=gate_ahead", "budget=50%"]],
        "rehearsal": [["model=reference", f"trace={tiny}", "bounds=false", "policy=lru,on_demand", "budget=50%"]],
    }
    for name, words in grids.items():
        cells = [config for grid in words for config in read_grid(grid)]
        (folder / f"{name}.yaml").write_text(dump_configs(cells), encoding="utf-8")
    return sorted(folder.iterdir())


def main(words: Sequence[str]) -> int:
    for path in write(Path(parse_options(Options, list(words)).folder)):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
