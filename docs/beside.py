"""README's table of other engines beside this runtime: ``python docs/beside.py``.

Measures on this CPU, each engine in a process of its own, into ``real/results/cpu/beside.json``, and writes README's
table and its sentence from it: five minutes on two cores that do nothing else. ``python docs/beside.py write`` only
writes.
"""

import json
import sys
from pathlib import Path
from typing import Any

from real.beside import FILE, Options
from real.beside import main as measure
from real.beside.told import markdown, verdict
from traces.kit.whole import write_whole

HERE = Path(__file__).resolve().parent
RESULTS, README = HERE.parent / "real" / "results" / "cpu", HERE.parent / "README.md"
BEGIN, END = "<!-- docs/beside.py writes from here -->\n", "<!-- to here: beside -->"
PLAN = Options(out=RESULTS, device="cpu", threads=1, minutes=30)
"""With time for every row, however slow the machine is."""


def read() -> dict[str, Any]:
    """What was measured last."""
    found: dict[str, Any] = json.loads((RESULTS / FILE).read_text(encoding="utf-8"))
    return found


def shown(found: dict[str, Any]) -> str:
    """What README has between its two marks."""
    return f"{verdict(found)}\n\n{markdown(found)}"


def write() -> None:
    """Write README's part anew."""
    page = README.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    write_whole(README, f"{before}{BEGIN}{shown(read())}{END}{after}")


if __name__ == "__main__":
    if sys.argv[1:] != ["write"]:
        measure(PLAN)
    write()
