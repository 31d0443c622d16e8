"""``python -m sim run -m``: a grid, through Hydra's multirun and whatever launcher and sweeper are chosen."""

import errno
import json
import logging
import os
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import yaml
from rich.console import Console

from sim.experiment.overrides import shell_word, value_word
from sim.experiment.sweep.job import Job, Told, heard, tally
from sim.experiment.sweep.plan import Plan, make_plan
from sim.results.classes import LOSSY, MARKS, MODIFIED, WHY_MODIFIED, marked, output_of
from sim.results.columns import row as frame_row
from sim.results.compare.stats import VERY_FEW, few
from sim.results.fitting import Row, fitted
from sim.results.host_memory import held_by_host
from sim.results.label import label
from sim.results.serving.lines import served, unranked
from sim.results.store import Store
from sim.results.table import HEADS, MEANING, MULTIPLES, own_figures
from sim.results.titles import rests_on, titles, with_changes
from traces.kit import conf
from traces.kit.errors import UserError, one_line
from traces.kit.telling import left, showing, stdout_console
from traces.kit.threads import THREADS
from traces.kit.units import counted, format_bytes
from traces.kit.whole import scratch, writable

LINE_S = 10.0
"""How often progress is written where nobody looks at a terminal."""
TUNED = "optimization_results.yaml"
"""What Hydra's Optuna sweeper leaves."""
TOLD = {
    "test": "tuned on the measured requests, so judge it on another trace; measure=validation tunes on others",
    "validation": "tuned on the validation requests; the same parameters with measure=test tell what they are worth",
}
VARYING: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "trace": lambda r: r["provenance"]["trace"]["sha256"][:8],
    "model": lambda r: with_changes(r, "model"),
    "dtype": lambda r: r["config"]["dtype"],
    "hardware": lambda r: with_changes(r, "hardware"),
    "batch": lambda r: str(r["config"]["workload"].get("batch", "-")),
    "workload": lambda r: served(r["config"]["workload"]),
    "chunks": lambda r: str(r["config"]["chunks"]),
    "warmup": lambda r: str(r["config"]["warmup"]),
    "limit": lambda r: str(r["config"]["limit"]),
    "measure": lambda r: r["config"].get("measure", "test"),
    "seed": lambda r: str(r["config"]["seed"]),
    "placement": lambda r: r["config"].get("placement") or "-",
    "KV": lambda r: format_bytes(kv) if (kv := r["config"].get("kv_bytes")) else "-",
    "host memory": lambda r: held_by_host(r["config"]),
}
"""What has a column where it is not the same in all rows."""
GOING = ("stall", "copied", "TTFT ms", "hits %")
"""Columns that a narrow console does without, the first one first."""


def multirun(words: Sequence[str], out: Path, form: str) -> int:
    """Run every combination; one failed cell does not stop the others. Returns the exit status: 2 if any failed,
    130 if it was interrupted.

    stdout has the results in the order of the grid, whatever the launcher: a table, or with ``format=json`` one
    document per line. stderr has progress, and at the end every failure.
    """
    plan = make_plan(words)
    store = Store(out.absolute())
    began = time.monotonic()
    place = store.root / ".multirun"
    with ExitStack() as stack:
        with writable(f"out={store.root}"):
            place.mkdir(parents=True, exist_ok=True)
            folder = stack.enter_context(scratch(place / "told"))
        try:
            broken = _launch(plan, store.root, folder)
        except KeyboardInterrupt as stop:
            _close(plan, list(heard(folder)), str(out), "interrupted", time.monotonic() - began)
            return getattr(stop, "status", 130)
        told = list(heard(folder))
    tuned = place / TUNED
    _print(told, store, form, plan.measure, tuned if plan.tunes and not broken else None)
    return _close(plan, told, str(out), broken, time.monotonic() - began)


def _launch(plan: Plan, root: Path, folder: Path) -> str | None:
    """Let Hydra run the jobs. Returns what broke, if something other than a cell did."""
    # Here, too, if numpy is not yet loaded, and in all processes that begin from here.
    os.environ |= dict.fromkeys(THREADS, "1")
    saved_argv, saved_env = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = ["sim", "--multirun", *plan.words, value_word("hydra.sweep.dir", str(root / ".multirun"))]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors through, rather than print them and exit
    job = Job(str(root), str(folder), os.getpid())
    try:
        with showing(partial(_state, folder, plan.cells, time.monotonic()), LINE_S), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the launchers and sweepers, about their own dependencies
            if plan.tunes:
                import optuna

                optuna.logging.set_verbosity(logging.WARNING)
            hydra.main(config_path=str(conf.FOLDER), config_name="config", version_base="1.3")(job)()
    except UserError:
        raise
    except Exception as error:  # a worker was killed, a cluster refused: the cells that are done are done
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            return f"out={root}: cannot be written ({error.strerror})"
        return one_line(f"{type(error).__name__}: {error}")
    finally:
        sys.argv = saved_argv
        if saved_env is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = saved_env
    return None


def _state(folder: Path, total: int, began: float) -> tuple[float, str]:
    done, failed = tally(folder)
    return done / max(1, total), progress_line(done, failed, total, time.monotonic() - began)


def progress_line(done: int, failed: int, total: int, seconds: float) -> str:
    """``cells 12 of 60, 1 failed, about 3:20 left``."""
    line = f"cells {done} of {total}" + (f", {failed} failed" if failed else "")
    return f"{line}, about {left(done, total, seconds)} left" if done else line


def _print(told: Sequence[Told], store: Store, form: str, measure: str, tuned: Path | None) -> None:
    """The results to stdout; a cell that the grid names twice is shown twice."""
    folders = [store.folder(one.folder) for one in told if one.folder is not None]
    documents = (document for folder in folders if (document := store.read(folder, "result.json")) is not None)
    best: dict[str, Any] = yaml.safe_load(tuned.read_text(encoding="utf-8")) if tuned and tuned.is_file() else {}
    if form == "json":
        for document in documents:
            sys.stdout.write(json.dumps(document, allow_nan=False) + "\n")
    elif folders:
        show_grid(documents, stdout_console())
    if best:
        params = " ".join(f"{key}={value}" for key, value in best["best_params"].items())
        said = f"best: {params} (mean TPOT {best['best_value']:.2f} ms)\n{TOLD[measure]}\n"
        (sys.stderr if form == "json" else sys.stdout).write(said)


def _close(plan: Plan, told: Sequence[Told], out: str, broken: str | None, seconds: float) -> int:
    """Say on stderr how it ended; returns the exit status."""
    failed = [one for one in told if one.state == "failed"]
    lost = plan.cells - len(told)
    counts = {state: sum(one.state == state for one in told) for state in ("run", "read")}
    sys.stderr.writelines(_failures(failed, out, whole=len(failed) == plan.cells))
    if broken is not None:
        sys.stderr.write(f"error: the sweep was broken off: {broken}\n")
    parts = [f"{counts['run']} run", f"{counts['read']} read", *([f"{len(failed)} failed"] if failed else [])]
    if lost:
        parts.append(f"{lost} not reached")
    inside = sum(one.seconds for one in told)
    sys.stderr.write(
        f"{counted(plan.cells, 'cell')} in {out}: {', '.join(parts)}; {seconds:.1f} s, the jobs took {inside:.1f} s\n"
    )
    if broken is not None or lost:
        sys.stderr.write("the same command reads what is there, and runs the rest\n")
    return 2 if failed or broken is not None or lost else 0


def _failures(failed: Sequence[Told], out: str, *, whole: bool) -> Iterator[str]:
    """Each error once, and below it the cells that end with it; ``whole``: there are no others."""
    alike: dict[str, list[str]] = {}
    for one in failed:
        words = [*map(shell_word, one.words), *([] if out == "outputs" else [shlex.quote(f"out={out}")])]
        alike.setdefault(str(one.error), []).append(f"  python -m sim run {' '.join(words)}\n")
    for error, commands in alike.items():
        yield f"error: {one_line(error)}\n"
        if len(alike) > 1 or not whole or len(commands) == 1:  # else it is the grid that cannot be, and no cell
            yield from commands


def show_grid(results: Iterable[Mapping[str, Any]], console: Console) -> None:
    """Print the policies' rows as ``sim run`` prints them; the bounds are in ``time`` and ``bytes``, as multiples.

    Above them stands what they are of, where it is the same for all.
    """
    rows = list(results)
    varying = [key for key, of in VARYING.items() if len({of(row) for row in rows}) > 1]
    bounded = any(row["bounds"] is not None for row in rows)
    lines: list[Row] = []
    for row in rows:
        output = output_of(row)
        words = [
            marked(label(row["config"]["policy"]), output, "{}, {}") + (", not ranked" if unranked(row) else ""),
            format_bytes(row["memory"]["budget_bytes"]),
            *(VARYING[key](row) for key in varying),
            *own_figures(row),
        ]
        lines.append(("magenta" if MARKS[output] or unranked(row) else "", "", words))
    own = [frame_row(row, "") for row in rows]
    told = [titles(row) for row in own]
    for same in ({f"{it.work}," for it in told}, {it.where for it in told}):
        if len(same) == 1:
            console.print(*same)
    heads = ["policy", "budget", *varying, *(HEADS if bounded else HEADS[:-2])]
    going = [heads.index(name) for name in GOING]
    console.print(*fitted(heads, lines, console, going), sep="\n")
    console.print(MEANING, style="dim")
    if bounded:
        console.print(MULTIPLES, style="dim")
    if said := few(min((row["totals"]["requests"] for row in rows), default=VERY_FEW)):
        console.print(said, style="yellow")
    if said := rests_on(own):
        console.print(said, style="yellow")
    for why in dict.fromkeys(filter(None, map(unranked, rows))):
        console.print(why, style="magenta")
    classes = set(map(output_of, rows))
    if LOSSY in classes:
        console.print("a lossy row is compared with lossy rows only, and has no bounds", style="magenta")
    if MODIFIED in classes:
        console.print(WHY_MODIFIED, style="magenta")
