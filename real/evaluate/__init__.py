"""`python -m real evaluate`: what `python -m real measure` left, replayed, simulated, fitted, drawn and judged."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from traces.kit.errors import UserError
from traces.kit.strict import dump_json
from traces.kit.words import Position, plain_name


@dataclass(frozen=True, kw_only=True)
class Options:
    """DIR is what python -m real measure left, on this machine or another one; no GPU
    is needed. Fits the runtime's overheads, replays every log without a clock (it
    must give the device's decisions and counts), simulates every cell with the
    machine's own profile, and writes how far each prediction was off, against
    criteria that were stated before.

    {keys}

    Written: NAME.yaml, the profile, which takes hardware=; a table and a picture
    for each model; README.md, the page.
    Exit status: 0; 1 where a replay does not agree, a criterion fails or a cell
    cannot be judged, or none was run; 2 for a mistake.

      python -m real evaluate measured out=real/results/mine
    """

    folder: Annotated[Path, Position("DIR"), "what python -m real measure left"]
    out: Annotated[str, "folder of the results; empty: DIR/evaluated"] = ""
    name: Annotated[str, plain_name, "of the machine's profile; empty: as it was measured"] = ""
    format: Annotated[Literal["page", "json"], "page: on a terminal as it looks"] = "page"


def main(options: Options) -> int:
    """Run the command; returns the exit status. UserError for what the user can mend."""
    try:
        import simpy  # noqa: F401 - here, so that its absence is told
    except ImportError as error:
        raise UserError(f"evaluate simulates, and needs SimPy ({error}); allowed: pip install simpy") from None
    from real.evaluate.evaluation import Evaluation
    from real.evaluate.page import page, write
    from real.validation.verdict import show

    folder = options.folder
    found = Evaluation(folder, options.name)
    out = Path(options.out) if options.out else folder / "evaluated"
    text = page(found)
    write(found, text, out)
    if options.format == "json":
        sys.stdout.write(dump_json(found.summary()))
    else:
        show(lambda _: text)
    sys.stderr.write(f"written to {out}\n")
    return 0 if found.holds else 1
