"""How a sweep uses two cores, and what Hydra costs: 60 cells, on one core and then with joblib on two.

    python tests/bench/sweep.py trace=DIR [limit=N ...]

5 policies x 4 budgets in one job x 3 seeds. Prints the ratio of the two wall times (1.7 is wanted), and which share of
the one-core time is not spent inside jobs: starting Python, composing and checking configurations, printing (below a
quarter is wanted). Run it on a quiet machine.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time

GRID = ("policy=lru,lfu,gate_ahead,promoe,fmoe", "budget=[2GB,4GB,8GB,10GB]", "seed=0,1,2", "model=olmoe_1b_7b")
TWO = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")


def sweep(words: list[str]) -> tuple[float, float]:
    """Wall seconds of a whole sweep in an empty folder, and the seconds its jobs took, summed."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "sim", "run", "-m", *GRID, *words, f"out={out}", "format=json"]
        began = time.monotonic()
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        wall = time.monotonic() - began
    last = done.stderr.splitlines()[-1]
    if done.returncode:
        sys.exit(done.stderr)
    print(last, file=sys.stderr)
    return wall, float(re.search(r"jobs took ([\d.]+) s", last)[1])  # type: ignore[index]


def main(words: list[str]) -> None:
    one, inside = sweep(words)
    two, _ = sweep([*words, *TWO])
    print(f"one core   {one:8.1f} s, outside the jobs {one - inside:.1f} s, a share of {(one - inside) / one:.3f}")
    print(f"two cores  {two:8.1f} s")
    print(f"ratio      {one / two:8.2f} on a machine of {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main(sys.argv[1:])
