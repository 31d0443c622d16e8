"""`python -m real evaluate`: what `python -m real measure` left, replayed, simulated, fitted, drawn and judged."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from traces.kit.options import check_choice, parse_options

from traces.kit.errors import UserError

USAGE = """\
python -m real evaluate DIR [key=value ...]

DIR is what python -m real measure left, on this machine or another one; no GPU
is needed. Fits the runtime's overheads, replays every log without a clock (it
must give the device's decisions and counts), simulates every cell with the
machine's own profile, and writes how far each prediction was off, against
criteria that were stated before.

  out      folder of the results; empty: DIR/evaluated
  name     of the machine's profile; empty: as it was measured
  format   page (on a terminal as it looks), or json, on stdout  [page]

Written: NAME.yaml, the profile, which takes hardware=; a table and a picture
for each model; README.md, the page.
Exit status: 0; 1 where a replay does not agree, a criterion fails or a cell
cannot be judged, or none was run; 2 for a mistake.

  python -m real evaluate measured out=real/results/mine
"""


@dataclass(frozen=True)
class Options:
    """See USAGE."""

    out: str = ""
    name: str = ""
    format: str = "page"

    def check(self) -> None:
        """UserError for a value that is not known."""
        check_choice("format", self.format, ("page", "json"))
        if self.name and not self.name.replace("_", "").replace("-", "").replace(".", "").isalnum():
            raise UserError(f"name={self.name}: allowed: letters, digits, '.', '_' and '-'")


def main(words: Sequence[str]) -> int:
    """Run the command; returns the exit status. UserError for what the user can mend."""
    plain = [word for word in words if "=" not in word]
    if len(plain) != 1:
        raise UserError(f"{len(plain)} folders are given; allowed: one, python -m real evaluate DIR")
    options = parse_options(Options, [word for word in words if "=" in word])
    options.check()
    try:
        import simpy  # noqa: F401 - here, so that its absence is told
    except ImportError as error:
        raise UserError(f"evaluate simulates, and needs SimPy ({error}); allowed: pip install simpy") from None
    from real.evaluate.evaluation import Evaluation
    from real.evaluate.page import page
    from real.evaluate.writing import write

    folder = Path(plain[0])
    found = Evaluation(folder, options.name)
    out = Path(options.out) if options.out else folder / "evaluated"
    text = page(found)
    write(found, text, out)
    if options.format == "json":
        sys.stdout.write(json.dumps(found.summary(), indent=1, allow_nan=False) + "\n")
    else:
        _show(text)
    sys.stderr.write(f"written to {out}\n")
    return 0 if found.holds else 1


def _show(page: str) -> None:
    """The page as its Markdown means it; as it is written where rich is not installed."""
    try:
        from rich.markdown import Markdown

        from sim.cli import stdout_console
    except ImportError:
        sys.stdout.write(page)
        return
    stdout_console().print(Markdown(page))
