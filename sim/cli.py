"""``python -m sim``: stdout carries the result, stderr the rest; a user's mistake is one line and exit status 2."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from traces.kit.errors import UserError, allowing
from traces.version import SHOWN

if TYPE_CHECKING:
    from rich.console import Console


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        from sim.experiment.help import HELP

        sys.stdout.write(HELP)
        return 0
    if words[0] == "--version":
        sys.stdout.write(SHOWN)
        return 0
    verb, *rest = words

    def command() -> int:
        if verb not in VERBS:
            raise UserError(f"{verb}: no such command; {allowing(verb, VERBS)}")
        return VERBS[verb](rest)

    return guarded(command)


def guarded(command: Callable[[], int]) -> int:
    """Run a command; returns the exit status. A user's mistake is one line on stderr."""
    try:
        return command()
    except UserError as error:
        sys.stderr.write(f"error: {one_line(error)}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing was written for the unfinished run\n")
        return 130
    except BrokenPipeError:
        # Nobody reads any more: let the flush at the end go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"error: {one_line(where)}{error.strerror or error}\n")
        return 2


def _run(words: Sequence[str]) -> int:
    if wants_help(words):
        from sim.experiment.help import run_help

        sys.stdout.write(run_help())
        return 0
    if any(word in ("-m", "--multirun") for word in words):
        from sim.experiment.sweep.multirun import multirun

        return multirun([word for word in words if word not in ("-m", "--multirun")])
    overrides, output = split_output(words)
    for word in overrides:
        if word.lstrip("+~").startswith("hydra"):
            raise UserError(f"{word}: Hydra's own keys have a meaning with -m only")
    from sim.experiment.compose import read_config
    from sim.experiment.progress import progress_bar
    from sim.experiment.run import run_config
    from sim.experiment.sweep.plan import blamed, check_single

    check_single(overrides)
    with blamed(overrides):
        config = read_config(overrides)
    with progress_bar() as progress:
        result = run_config(config, output["out"], progress)
    report(result.document, output["format"])
    sys.stderr.write(f"{'read from' if result.cached else 'written to'} {result.folder}\n")
    return 0


def _config(words: Sequence[str]) -> int:
    """Print the resolved configuration: a run of it needs no Hydra."""
    if wants_help(words):
        from sim.experiment.help import CONFIG_HELP

        sys.stdout.write(CONFIG_HELP)
        return 0
    many = any(word in ("-m", "--multirun") for word in words)
    rest = [word for word in words if word not in ("-m", "--multirun")]
    if wrong := [word for word in rest if word.startswith(("out=", "format="))]:
        raise UserError(f"{wrong[0]}: no part of a configuration; give it to the command that reads the file")
    overrides, _ = split_output(rest)
    from sim.experiment.compose import read_config
    from sim.experiment.config import dump_configs
    from sim.experiment.sweep.plan import check_single, read_grid

    if not many:
        check_single(overrides)
    sys.stdout.write(dump_configs(read_grid(overrides) if many else [read_config(overrides)]))
    return 0


def wants_help(words: Sequence[str]) -> bool:
    """Whether a command is asked for its help, wherever among its words."""
    return any(word in ("-h", "--help") for word in words)


def one_line(text: object) -> str:
    """A message with its line ends, and whatever else a terminal would obey, written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def report(document: object, form: str) -> None:
    """Write a result to stdout, as a table or as the content of ``result.json``."""
    if form == "json":
        sys.stdout.write(json.dumps(document, indent=1, allow_nan=False) + "\n")
        return
    from sim.results.table import show

    show(document, stdout_console())  # type: ignore[arg-type]


def stdout_console(width: int = 120) -> Console:
    """Where tables are printed: as wide as the terminal, or as COLUMNS says, else ``width``.

    Brackets in a name are no markup.
    """
    from rich.console import Console

    own = sys.stdout.isatty() or os.environ.get("COLUMNS", "").lstrip("0").isdecimal()  # Rich reads both
    return Console(width=None if own else width, highlight=False, markup=False, emoji=False)


def split_output(words: Sequence[str], *, writes: bool = True) -> tuple[list[str], dict[str, str]]:
    """Take ``out=`` and ``format=`` out of the words: they do not change the result. UserError for a slip, and for an
    ``out=`` where nothing is written."""
    output = {"out": "outputs", "format": "table"}
    overrides = []
    for word in words:
        key, separator, value = word.partition("=")
        if key == "out" and not writes:
            raise UserError(f"{word}: this command prints, and writes nothing; leave it out")
        if separator and key in output:
            output[key] = value
        elif not separator and not word.startswith("~"):
            raise UserError(f"{word}: not understood; write key=value (python -m sim run --help)")
        else:
            overrides.append(word)
    if output["format"] not in ("table", "json"):
        raise UserError(f"format={output['format']}: {allowing(output['format'], ('table', 'json'))}")
    output["out"] = os.path.expanduser(output["out"])  # noqa: PTH111 - of ~user, too, and no shell does it after out=
    if not output["out"]:
        raise UserError("out=: a folder is wanted")
    return overrides, output


def _main_of(module: str) -> Callable[[Sequence[str]], int]:
    """The ``main`` of a module that is imported when its command is given."""

    def command(words: Sequence[str]) -> int:
        return int(import_module(module).main(words))

    return command


VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "run": _run,
    "compare": _main_of("sim.results.compare.cli"),
    "report": _main_of("sim.experiment.again"),
    "config": _config,
    "check": _main_of("sim.check.cli"),
    "curve": _main_of("sim.experiment.curve"),
    "timeline": _main_of("sim.results.side_by_side"),
    "bench": _main_of("sim.experiment.bench"),
}
