"""What runs a command: the verbs of a program, their help pages, and how a command may end.

stdout is the result, stderr the rest. Exit status: 0 done, 2 a mistake of the user's (one line on stderr), 130 or 143
interrupted or terminated, 141 nobody reads any more; a verb may give another.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from importlib import import_module
from inspect import cleandoc, signature
from pathlib import Path
from textwrap import indent, wrap
from typing import Any, get_type_hints

from traces.kit.errors import Interrupted, UserError, allowing, one_line
from traces.kit.words import HELP, Key, Others, Position, keys_of, names_of, parse
from traces.version import SHOWN

WIDTH = 80
END = """\
Add --help to a command for its keys; --version says which release this is.
Exit status: 0 done, 2 a mistake of yours (one line on stderr).
"""


@dataclass(frozen=True)
class Command:
    """What is done with the words: their dataclass, whose docstring is the help page's text, and a function of it.

    In the docstring, a line ``{keys}`` stands for the list of keys; without one they come last.
    """

    options: type
    run: Callable[[Any], int | None]

    @classmethod
    def of(cls, function: Callable[[Any], int | None]) -> Command:
        """The command of a function whose first parameter is annotated with the dataclass."""
        return cls(get_type_hints(function)[next(iter(signature(function).parameters))], function)


@dataclass(frozen=True)
class Choice:
    """A verb whose first word names one of several commands, such as a format; each is made when it is wanted."""

    word: str
    about: str
    commands: Callable[[], Mapping[str, Callable[[], Command]]]


@dataclass(frozen=True)
class Program:
    """One room's program, ``python -m NAME VERB ...``. ``verbs``: by name, "module:function" and a line of help.

    A verb's module is imported when it is given.
    """

    name: str
    about: str
    verbs: Mapping[str, tuple[str, str]]
    examples: str = ""

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Run one command, by default that of ``sys.argv``; returns the exit status."""
        words = list(sys.argv[1:] if argv is None else argv)
        return guarded(lambda: self._main(words))

    def _main(self, words: Sequence[str]) -> int:
        verb, *rest = words or ["--help"]
        if verb in (*HELP, "help"):
            sys.stdout.write(self.page())
        elif verb == "--version":
            sys.stdout.write(SHOWN)
        else:
            return run(f"python -m {self.name} {verb}", self.find(verb), rest)
        return 0

    def find(self, verb: str) -> Command | Choice:
        if verb not in self.verbs:
            raise UserError(f"{one_line(verb)}: no such command; {allowing(verb, [*self.verbs, '--help'])}")
        module, _, name = self.verbs[verb][0].partition(":")
        found = getattr(import_module(module), name)
        return found if isinstance(found, Choice) else Command.of(found)

    def page(self) -> str:
        verbs = _table([(verb, line) for verb, (_, line) in self.verbs.items()])
        parts = (f"python -m {self.name} COMMAND [key=value ...]\n", self.about, verbs, END, self.examples)
        return "\n".join(part for part in parts if part)


def run(called: str, command: Command | Choice, words: Sequence[str]) -> int:
    """Run a command, called so, on its words, or show its page where they ask for it. UserError."""
    if isinstance(command, Choice):
        commands = command.commands()
        name = words[0] if words else ""
        if len(commands) == 1 and name in HELP:
            name, words = next(iter(commands)), ["", *HELP]
        if name not in commands and HELP & {*words}:
            sys.stdout.write(_page_of_all(called, command, {name: make() for name, make in commands.items()}))
            return 0
        if name not in commands:
            what = f" {one_line(name)}: no such {command.word.lower()}" if name else f": missing {command.word}"
            raise UserError(f"{called.rpartition(' ')[2]}{what}; {allowing(name, commands)}")
        called, command, words = f"{called} {name}", commands[name](), words[1:]
    if HELP & {*words}:
        sys.stdout.write(page(called, command.options))
        return 0
    return command.run(parse(command.options, words, usage(called, command.options))) or 0


def run_module(function: Callable[[Any], int | None]) -> None:
    """``python -m MODULE`` of a module that is a command itself: run its function, and exit."""
    called = f"python -m {sys.modules[function.__module__].__spec__.name}"  # type: ignore[union-attr]
    sys.exit(guarded(lambda: run(called, Command.of(function), sys.argv[1:])))


def guarded(command: Callable[[], int]) -> int:
    """Run a command; returns the exit status. A user's mistake is one line on stderr, an end from outside, too."""
    try:
        with _terminable():
            status = command()
            sys.stdout.flush()
        return status
    except UserError as error:
        sys.stderr.write(f"error: {one_line(' '.join(str(error).split()))}\n")
        return 2
    except KeyboardInterrupt as stop:
        sys.stderr.write(f"{str(stop) or 'interrupted; nothing unfinished was written'}\n")
        return stop.status if isinstance(stop, Interrupted) else 130
    except BrokenPipeError:
        # Nobody reads any more: let the flush at the end go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"error: {one_line(where)}{error.strerror or error}\n")
        return 2


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM, a batch system's way to say that time is up, ends a command as Ctrl-C does: what it holds is let go."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, _frame: object) -> None:
        raise Interrupted("terminated", 128 + number)

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def usage(called: str, options: type) -> str:
    keys = keys_of(options)
    more = any(not key.needed and not key.mark(Position) for key in keys)
    return " ".join([called, *names_of(keys), *(["[key=value ...]"] if more else [])])


def page(called: str, options: type) -> str:
    """The help page of a command: how it is called, the docstring of its dataclass, and its keys."""
    before, _, after = cleandoc(options.__doc__ or "").partition("{keys}")
    lines = wrap(usage(called, options), WIDTH, subsequent_indent=" " * (len(called) + 1), break_on_hyphens=False)
    parts = ("\n".join(lines), before.strip("\n"), _keys(keys_of(options)).rstrip("\n"), after.strip("\n"))
    return "\n\n".join(part for part in parts if part) + "\n"


def _page_of_all(called: str, choice: Choice, commands: Mapping[str, Command]) -> str:
    """The page of a verb: what all its commands take, then each with its own."""
    every = [keys_of(command.options) for command in commands.values()]
    common = [key for key in every[0] if all(key in keys for keys in every)]
    names = " ".join([called, choice.word, *names_of(common), "[key=value ...]"])
    parts = [names, choice.about.strip("\n"), _keys(common).rstrip("\n")]
    for name, command in commands.items():
        own = [key for key in keys_of(command.options) if key not in common]
        text = indent(cleandoc(command.options.__doc__ or ""), "  ")
        parts.append("\n".join(part for part in (name, text, _keys(own).rstrip("\n")) if part))
    return "\n\n".join(part for part in parts if part) + "\n"


def _keys(keys: Sequence[Key]) -> str:
    rows = []
    for key in sorted(keys, key=lambda key: not key.needed):
        others = key.mark(Others)
        if others is not None:
            rows += [*others.page().items()] if others.page else []
            continue
        known = " | ".join(key.choices)
        text = f"{key.text} ({known})" if key.text and known else key.text or known
        rows.append((key.shown.rstrip("="), f"{text}{_default(key.default)}"))
    return _table(rows)


def _table(rows: Sequence[tuple[str, str]]) -> str:
    """Words and what they are, under one another."""
    column = min(22, max((len(word) for word, _ in rows), default=0) + 4)
    lines = []
    for word, text in rows:
        first, *more = wrap(text, WIDTH - column, break_on_hyphens=False, break_long_words=False) or [""]
        head = f"  {word}"
        lines += [f"{head:{column}}{first}"] if len(head) < column - 1 else [head, " " * column + first]
        lines += [" " * column + line for line in more]
    return "".join(f"{line}\n" for line in lines)


def _default(value: object) -> str:
    """As one types it."""
    if not isinstance(value, str | int | float | Path | Fraction) or value == "":
        return ""
    shown = str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
    return f"  [{shown}]"
