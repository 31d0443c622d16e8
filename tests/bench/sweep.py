"""How a sweep uses two cores, and what Hydra costs: 60 cells, on one core and then with joblib on two.

    python tests/bench/sweep.py trace=DIR [limit=N ...]

5 policies, none of which needs a fitted predictor, x 4 budgets in one job x 3 seeds. Prints the ratio of the two wall
times (1.7 is wanted), and which share of the one-core time is not spent inside jobs: starting Python, composing and
checking configurations, printing (below a quarter is wanted). Run it on a quiet machine.
"""

import os
import re
import resource
import subprocess
import sys
import tempfile
import time

GRID = ("policy=lru,lfu,gate_ahead,moe_infinity,fmoe", "budget=[2GB,4GB,8GB,10GB]", "seed=0,1,2", "model=olmoe_1b_7b")
TWO = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")


def sweep(words: list[str]) -> tuple[float, float, float]:
    """Wall seconds of a whole sweep in an empty folder, the seconds its jobs took, summed, and CPU seconds in all."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "sim", "run", "-m", *GRID, *words, f"out={out}", "format=json"]
        began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    last = done.stderr.splitlines()[-1]
    if done.returncode:
        sys.exit(done.stderr)
    print(last, file=sys.stderr)
    return wall, float(re.search(r"jobs took ([\d.]+) s", last)[1]), cpu  # type: ignore[index]


def main(words: list[str]) -> None:
    one, inside, cpu_one = sweep(words)
    two, _, cpu_two = sweep([*words, *TWO])
    outside = one - inside
    print(f"one core   {one:8.1f} s, {cpu_one:.1f} s of it on the CPU, outside the jobs {outside / one:.3f} of it")
    print(f"two cores  {two:8.1f} s, {cpu_two:.1f} s on both CPUs together")
    print(f"ratio      {one / two:8.2f} on a machine of {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main(sys.argv[1:])
