"""``python -m sim report DIR``: compare the runs, draw them, write one HTML page that needs nothing else."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from sim.results.compare.cli import Chosen, compared
from traces.kit.errors import UserError
from traces.kit.units import counted
from traces.kit.whole import writable, write_whole
from traces.kit.words import words_of

FILE = "report.html"


@dataclass(frozen=True, kw_only=True)
class Options(Chosen):
    """One HTML page of the runs below DIR: the tables of compare, pictures, what may
    be concluded and what not, where every row comes from and the command that makes
    it again. It holds its pictures and loads nothing. Beside it lies the table of
    the runs as CSV, under the same name.

    {keys}

    Any other KEY=VALUE chooses runs, as for compare.

      python -m sim report outputs
      python -m sim report outputs target='tpot<=30ms' policy=lru,fmoe out=two.html
    """

    out: Annotated[Path | None, "the page; without it report.html in DIR"] = None


def write_report(options: Options, again: Callable[[Path], Callable[[str, str], str]]) -> None:
    """Run the command. ``again``: of DIR, what says how to make a run again (see build)."""
    from sim.results.report.content import build, data

    root = Path(options.folder)
    target = options.out or root / FILE
    if root.is_file():
        raise UserError(f"{root}: a folder of results is wanted; a table of runs has neither layers nor requests")
    _writable(target)
    found = compared("report", options)
    beside = target.with_suffix(".csv")
    content, missing = build(found, root, words_of(options), beside.name, again(root))
    with writable(f"out={target}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(beside, data(found))
        write_whole(target, content)
    for line in missing:
        sys.stderr.write(f"not drawn: {' '.join(line.split())}\n")
    sys.stderr.write(f"wrote {target}: {counted(len(found.runs), 'run')}, {len(content):,} bytes\n")


def _writable(target: Path) -> None:
    """UserError before the work, not after it, where the page cannot be written."""
    if target.is_dir():
        raise UserError(f"out={target}: a folder; allowed: a file, such as {target / FILE}")
    if target.suffix == ".csv":
        raise UserError(f"out={target}: the table of the runs takes that name; allowed: such as {target.stem}.html")
    folder = target.parent
    if folder.exists() and not os.access(folder, os.W_OK):
        raise UserError(f"out={target}: cannot be written (no permission for {folder})")
