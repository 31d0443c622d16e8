"""``python -m sim regret``: what the runs of a folder leave to be gained, and by which of their evictions."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from sim.experiment.regrets import regrets
from sim.results.compare.selection import MixedRunsError
from traces.kit.errors import UserError
from traces.kit.strict import dump_json
from traces.kit.telling import say, stdout_console
from traces.kit.vocabulary import Format, new_picture
from traces.kit.words import Others, Position


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where the time goes that the runs in DIR take beyond the bound: victim
    ranking, prefetch of one layer and further ahead, admission, the rest, along
    the path of belady_forced, perfect_next_layer and oracle_ahead; and each
    eviction beside that of Belady's rule, by phase, layer and age. Runs are
    replayed for it, rows that are missing are run, and what was found is kept in
    DIR, and read the next time.

    {keys}

    Any other KEY=VALUE chooses runs, as in python -m sim compare.

      python -m sim run -m policy=lru,lfu,fmoe budget=2GB,4GB
      python -m sim regret outputs
      python -m sim regret outputs policy=lru budget=4GB picture=gap.svg
    """

    folder: Annotated[str, Position("DIR"), "of results"]
    picture: Annotated[Path | None, new_picture, "draw the parts of the gaps into FILE.svg or .png"] = None
    format: Annotated[Format, "json: evictions by layer, too"] = "table"
    selection: Annotated[tuple[str, ...], Others(), ""] = ()


def main(options: Options) -> None:
    """Print what there is to be gained."""
    try:
        found = regrets(options.folder, options.selection)
    except MixedRunsError as error:
        words = ["python", "-m", "sim", "regret", options.folder, *options.selection, *error.words]
        raise UserError(error.with_choice(shlex.join(words))) from None
    if options.format == "json":
        sys.stdout.write(dump_json(found.document()))
    else:
        from sim.experiment.regret_table import show

        show(found, stdout_console())
    if options.picture is not None:
        from sim.experiment.regret_table import picture_of
        from traces.kit.drawing import write_picture

        write_picture(picture_of(found), options.picture)
        say(f"wrote {options.picture}")
