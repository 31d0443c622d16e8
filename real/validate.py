"""`python -m real validate`: the device and the simulator on the same routing, and how far apart they are."""

import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from real.words import Checkpoint, Configured, Weights, is_checkpoint, prepare, read_cells
from sim.results.label import label
from traces.kit.errors import UserError
from traces.kit.strict import dump_json
from traces.kit.telling import say
from traces.kit.words import Between, folder, plain_name


@dataclass(frozen=True, kw_only=True)
class Options(Configured):
    """Runs a recorded trace's routing on a device and in the simulator, and prints how
    far the prediction was off, the worst cell first. The device's log of facts,
    replayed without a clock, must give the device's decisions and its hit rates.

    Takes all keys of python -m sim run; several values, separated by commas, make a
    grid, for which the model is loaded once. Without trace= and model= it is the
    sample; model= is a name of conf/model, or a checkpoint,
    priced as it is. hardware= is the machine that is predicted; without it this one
    is measured first, in about 30 s. As many threads= as the profile was measured
    with. Beside --config (python -m sim config -m) hardware=FILE.yaml and trace=DIR
    alone may be given.

    {keys}

    Written: NAME.json, NAME.md, NAME.png. Exit status: 0; 1 where a replay does not
    agree; 2 where a cell could not be run.

      python -m real validate policy=lru,gate_ahead budget=25%,50%,75% limit=2
    """

    checkpoint: Checkpoint = ""
    weights: Weights = "auto"
    repeat: Annotated[int, Between(1, 1000), "runs of each cell on the device; the one of median time is shown"] = 1
    diff: Annotated[bool, "show in words where device and simulator first part"] = False
    logs: Annotated[bool, "keep both logs of facts of every cell, for python -m real diff"] = False
    out: Annotated[Path | Literal[""], folder, "of the results; empty: real/results/HARDWARE"] = ""
    name: Annotated[str, plain_name, "of the result's files; empty: the model's"] = ""


def main(options: Options) -> int:
    """Run the command; returns the exit status. UserError for what the user can mend."""
    rest = options.rest
    configs = read_cells(rest, options.config)  # a mistake is told before anything is measured
    prepare(options.threads)
    from real.diff import lines
    from real.validation.bench import Bench
    from real.validation.verdict import agrees, markdown, show
    from real.validation.writing import document_of, word, write_logs, write_results

    checkpoint = options.checkpoint or next((word.partition("=")[2] for word in rest if is_checkpoint(word)), "")
    bench = Bench(options.where(), options.weights, checkpoint, options.repeat)
    if not (options.config or any(word.startswith("hardware=") for word in rest)):
        hardware = bench.measure_machine(configs, options.threads)
        configs = [replace(config, hardware=hardware) for config in configs]
    for config in configs:
        bench.run(config)
    if not bench.cells:
        raise UserError(f"no cell could be run: {bench.failed[0]['error']}")
    document = document_of(bench.cells, bench.failed, bench.source())
    source = document["provenance"]
    place = options.out or Path("real") / "results" / word(source["hardware"]["name"])
    if options.logs:
        for row, logs in zip(bench.cells, bench.logs, strict=True):
            write_logs(place, options.name or word(source["model"]["name"]), row, logs)
    write_results(document, place, options.name)
    if options.format == "json":
        sys.stdout.write(dump_json(document))
    else:
        show(partial(markdown, document))
        if options.diff:
            for row in document["cells"]:
                where = f"{label(row['policy'])} at {row['budget']}"
                sys.stdout.write(f"\n{where}\n{lines(row['first_differences'])}")
    say(f"written to {place}")
    if not all(map(agrees, bench.cells)):
        say("error: a replay without a clock does not give what the device decided")
        return 1
    return 2 if bench.failed else 0
