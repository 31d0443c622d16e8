"""What has been done: ``measure.json``, written after each step."""

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from traces.kit.errors import UserError, one_of
from traces.kit.strict import dump_json
from traces.kit.whole import held, write_whole

FILE, LOCK = "measure.json", ".lock"
SCHEMA = 1
GROWS = ("host",)
"""Of what is told of a machine: it may show more memory than before."""


@dataclass
class State:
    """One step: done, failed, stopped (out of its time) or outstanding; ``said``: why, or what came of it."""

    state: str = "outstanding"
    said: str = ""
    wall_s: float = 0.0
    cpu_s: float = 0.0


class Record:
    """The states of all steps of one folder, and what was measured where. UserError for another machine's folder."""

    def __init__(self, folder: Path, about: Mapping[str, Any], steps: list[str]) -> None:
        self.path, self.about = folder / FILE, dict(about)
        self.states = {name: State() for name in steps}
        if not self.path.exists():
            return
        found = read(folder)
        for key, value in self.about.items():
            if key not in GROWS and (was := found["about"].get(key)) != value:
                raise UserError(
                    f"out={folder}: was measured with {key}={was}, and this is {value}; allowed: a new folder"
                )
        self.states |= {name: State(**state) for name, state in found["steps"].items() if name in self.states}

    def note(self, name: str, state: State) -> None:
        """A step has ended: write it down."""
        self.states[name] = state
        steps = {name: asdict(state) for name, state in self.states.items()}
        write_whole(self.path, dump_json({"schema": SCHEMA, "about": self.about, "steps": steps}))

    def table(self) -> str:
        """A line per step, for a person."""
        lines = [f"{'step':10} {'state':12} {'wall s':>7} {'CPU s':>7}"]
        for name, it in self.states.items():
            lines.append(f"{name:10} {it.state:12} {it.wall_s:7.1f} {it.cpu_s:7.1f}  {it.said}".rstrip())
        return "\n".join(lines) + "\n"


@contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Within this block the folder is this process's, which may end as it likes. UserError where it is another's: each
    would write over what the other has done."""
    with ExitStack() as stack:
        try:
            stack.enter_context(held(folder / LOCK, wait=False))
        except BlockingIOError:
            raise UserError(
                f"out={folder}: another python -m real measure is at work in it; allowed: another folder, or to wait"
            ) from None
        yield


def read_step(folder: Path, name: str, keys: Collection[str] = ()) -> Any:
    """What a step wrote as NAME.json, a mapping with ``keys``; None where it did not come to it. UserError."""
    path, again = folder / f"{name}.json", "remove the file, and measure this step again"
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); {again}") from None
    if missing := [key for key in keys if not isinstance(found, dict) or key not in found]:
        raise UserError(f"{path}: without {one_of(missing)}, damaged or of another version; {again}")
    return found


def read(folder: Path) -> dict[str, Any]:
    """The content of a folder's record. UserError where there is none, or another one."""
    path = folder / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; allowed: a folder of python -m real measure") from None
    except ValueError as error:
        raise UserError(f"{path}: not a record of python -m real measure ({error})") from None
    match found:
        case {"schema": schema, "about": dict(), "steps": dict(steps)} if schema == SCHEMA:
            if all(isinstance(it, dict) and it.keys() == asdict(State()).keys() for it in steps.values()):
                return dict(found)
    raise UserError(f"{path}: not a record of schema {SCHEMA}; measure again into a new folder")
