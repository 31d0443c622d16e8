"""A verb as a test calls it: UserError and the exit status come through, as the command gives them."""

from collections.abc import Callable, Sequence
from importlib import import_module

from traces.kit.command import run


def called(program: str, verb: str) -> Callable[[Sequence[str]], int]:
    """What ``python -m PROGRAM VERB`` does with its words."""

    def main(words: Sequence[str]) -> int:
        found = import_module(f"{program}.cli").PROGRAM.find(verb)
        return run(f"python -m {program} {verb}", found, list(words))

    return main


collect = called("traces", "collect")
quality = called("real", "quality")
bench = called("sim", "bench")
check = called("sim", "check")
