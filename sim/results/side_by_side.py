"""``python -m sim timeline``: the timelines of several runs as one, to be seen one below the other in Perfetto."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from sim.results.timeline import Event, write
from traces.kit.errors import UserError
from traces.kit.units import counted
from traces.kit.whole import whole, writable
from traces.kit.words import Position

RUN_AGAIN = "run it with timeline=true"


BESIDE = ("bounds.json", "learned.json", "regret.json")
"""What folders beside those of runs hold."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Puts the timelines of runs into one, one below the other: each is a process, and
    its measured window begins at 0.

    {keys}

      python -m sim run -m policy=lru,fmoe budget=4GB limit=1 timeline=true out=two
      python -m sim timeline two/*
    """

    folders: Annotated[
        tuple[Path, ...],
        Position("DIR"),
        "the folder of a run that was made by python -m sim run or python -m real run with timeline=true",
    ]
    out: Annotated[Path, "the file, to be opened in Perfetto"] = Path("timelines.json")


def main(options: Options) -> None:
    """Run the command."""
    folders, out = options.folders, options.out
    if out.is_dir() or not out.name:
        raise UserError(f"out={out}: a file is wanted")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError(f"timeline: the same folder twice among {', '.join(map(str, folders))}")
    # out/* also names what runs leave beside them: bounds, what was learned, regrets.
    runs = [folder for folder in folders if not any((folder / name).is_file() for name in BESIDE)] or folders
    for folder in sorted({*folders} - {*runs}, key=folders.index):
        sys.stderr.write(f"{folder}: holds no run, left out\n")
    together = side_by_side(runs)
    with writable(f"out={out}"):
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole(out) as part:
            write(part, together)
    slices = sum(event["ph"] == "X" for event in together)
    sys.stderr.write(f"wrote {slices} slices of {counted(len(runs), 'run')} to {out}\n")


def side_by_side(folders: Sequence[Path]) -> list[Event]:
    """The events of runs, each a process of its own, in µs since the beginning of its first forward pass."""
    runs = [read(folder) for folder in folders]
    titles = [next(e["args"]["name"] for e in run if e["name"] == "process_name") for run in runs]
    several = {title for title, n in Counter(titles).items() if n > 1}
    names = [folder.name for folder in folders]
    ways = names if len(set(names)) == len(names) else list(map(str, folders))  # results that were copied
    made: list[Event] = []
    for number, (way, title, run) in enumerate(zip(ways, titles, runs, strict=True), 1):
        begin = min((round(1000 * e["ts"]) for e in run if e.get("cat") == "step"), default=0)
        for event in run:
            event["pid"] = number
            if "ts" in event:
                event["ts"] = (round(1000 * event["ts"]) - begin) / 1000
            if event["name"] == "process_name" and title in several:
                event["args"]["name"] = f"{title} ({way})"
        made.append({"ph": "M", "name": "process_sort_index", "pid": number, "args": {"sort_index": number}})
        made += run
    return made


def read(folder: Path) -> list[Event]:
    """The events of a run's timeline. UserError if it kept none."""
    path = folder / "timeline.json"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    if not path.is_file():
        runs = any(folder.glob("*/timeline.json"))
        raise UserError(f"{folder}: has no timeline.json; {'give its runs, DIR/*' if runs else RUN_AGAIN}")
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
        events: list[Event] = document["traceEvents"]
        if not any(event["name"] == "process_name" for event in events):
            raise ValueError("no process is named")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a timeline of this version ({type(error).__name__}: {error})") from None
    return events
