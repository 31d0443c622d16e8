"""``python -m real``: stdout carries the result, stderr the rest; a user's mistake is one line and exit status 2."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from sim.cli import guarded
from traces.kit.errors import UserError, allowing
from traces.version import SHOWN

VERBS = {
    "run": "serve prompts, or a trace's routing, on a device",
    "validate": "the same routing on a device and simulated: how far apart they are",
    "diff": "where two logs of facts first differ, in words",
    "calibrate": "the runtime's own overheads, added to a hardware profile",
    "quality": "what a lossy policy costs: perplexity, KL, agreement",
    "peers": "our runtime beside the library and accelerate",
    "measure": "a machine with a GPU in one go, within minutes",
    "evaluate": "what measure left: replayed, simulated, fitted and judged",
}
HELP = """\
python -m real VERB [key=value ...]

The offloading runtime: the simulator's policies and core on a device, a GPU or
this machine's CPU.

{verbs}

python -m real VERB --help says more; --version says which release this is.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(HELP.format(verbs="\n".join(f"  {verb:10} {what}" for verb, what in VERBS.items())))
        return 0
    if words[0] == "--version":
        sys.stdout.write(SHOWN)
        return 0

    def command() -> int:
        verb, *rest = words
        if verb not in VERBS:
            raise UserError(f"{verb}: no such command; {allowing(verb, VERBS)}")
        module = import_module(f"real.{verb}")
        if any(word in ("-h", "--help") for word in rest):
            sys.stdout.write(module.USAGE)
            return 0
        return int(module.main(rest))

    return guarded(command)
