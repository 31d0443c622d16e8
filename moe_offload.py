"""The program ``moe-offload``, and why a user's own folders may be called as our packages are.

Python looks for ``sim`` first where the user stands, if asked for ``python -m sim``, and in every entry of PYTHONPATH.
Nothing but the standard library is imported here before our packages are sure to be found.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import PathFinder
from io import TextIOWrapper
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ROOMS = {
    "traces": "what happened: recorded routing, checked, shown, imported and recorded",
    "policies": "the decisions: fit what they predict with",
    "sim": "what would happen: replay a trace against a policy on a simulated machine",
    "real": "what does happen: the same policy on a GPU or on this machine's CPU",
}
HELP = """\
moe-offload {rooms} COMMAND [KEY=VALUE ...]

{lines}

Add --help to any of them for its commands; moe-offload --version says which this is. python -m sim and so on are the
same, but for what lies in the folder where you stand: moe-offload never imports from there.

  moe-offload sim run policy=fmoe budget=8GB
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, by default that of ``sys.argv``; returns the exit status."""
    room, *words = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    ours_first(ROOT)
    if not _is(sys.path[0], ROOT):
        os.environ["PYTHONSAFEPATH"] = "1"  # child processes: sys.executable -m sim, a launcher's workers
    if room in ("-h", "--help", "help"):
        lines = "\n".join(f"  {room:10}{what}" for room, what in ROOMS.items())
        sys.stdout.write(HELP.format(rooms="|".join(ROOMS), lines=lines))
        return 0
    if room == "--version":
        from traces.version import SHOWN

        sys.stdout.write(SHOWN)
        return 0
    if room not in ROOMS:
        from traces.kit.errors import one_line, one_of

        sys.stderr.write(
            f"error: {one_line(room)}: no such command; allowed: {one_of([*ROOMS, '--help', '--version'])}\n"
        )
        return 2
    return run(room, words)


def start(room: str) -> None:
    """``python -m ROOM``: run its program and exit. Nobody but a module that is ``__main__`` calls this."""
    try:
        ours_first(ROOT)
        sys.exit(run(room, sys.argv[1:]))
    except KeyboardInterrupt:  # before the command had begun
        sys.exit(130)


def run(room: str, words: Sequence[str]) -> int:
    """Run a room's program; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path may hold bytes that are no text
    status: int = import_module(f"{room}.cli").main(words)
    return status


def ours_first(root: Path) -> None:
    """Let our packages in `root` be found before modules of these names elsewhere, here and in child processes.

    Nothing is changed where they are found already. A folder without ``__init__.py`` (a namespace) never wins over a
    package, wherever on the path that one lies.
    """
    place = len(sys.path)
    for number, entry in enumerate(sys.path):
        if _is(entry, root):
            return
        if any(_shadows(entry, room, root) for room in ROOMS):
            place = number
            break
    unsafe = [] if sys.flags.safe_path else [sys.path[0] or str(Path.cwd())]  # children keep it, behind ours
    given = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(root), *unsafe, *([given] if given else [])])
    os.environ["PYTHONSAFEPATH"] = "1"
    sys.path.insert(place, str(root))


def _shadows(entry: str, room: str, root: Path) -> bool:
    """Whether an entry of the path has a package or a module of that name, and not our own by a link."""
    spec = PathFinder.find_spec(room, [entry or str(Path.cwd())])
    if spec is None or spec.origin is None:
        return False
    return Path(spec.origin).resolve().parents[1] != root


def _is(entry: str, root: Path) -> bool:
    return Path(entry).resolve() == root


if __name__ == "__main__":
    sys.exit(main())
