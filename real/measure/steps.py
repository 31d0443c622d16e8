"""The steps in their order, and how they are run: each within its time, what fails is named, what is done stays."""

import gc
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from real.measure import beside, machine, processes, served
from real.measure.bench import Bench
from real.measure.clock import Clock, OutOfTimeError
from real.measure.record import State, claim
from traces.kit.errors import UserError, allowing, one_of
from traces.kit.telling import in_short, say


@dataclass(frozen=True)
class Step:
    """One thing to measure. It is begun only where ``least_s`` are left, and has at most ``most_s``, of 9 minutes.

    ``run`` returns a line of what came of it. It may be called again after it was stopped: it goes on. ``leaves``: the
    files without which it is not done, whatever the record says.
    """

    name: str
    run: Callable[[Bench], str]
    least_s: float
    most_s: float
    needs: tuple[str, ...] = ()
    leaves: Callable[[Bench], Iterable[str]] = lambda _: ()


def _files(*names: str) -> Callable[[Bench], Iterable[str]]:
    return lambda _: names


STEPS = (
    Step("preflight", machine.preflight, 5, 90, (), _files("preflight.json")),
    Step("copies", machine.copies, 10, 60, (), _files("copies.json", "profile.yaml")),
    Step("layers", machine.layers, 15, 75, (), _files("layers.json")),
    Step("store", served.store, 10, 120),
    Step("overheads", served.overheads, 10, 60, ("store",), _files("overheads.json")),
    Step("cells", served.cells, 10, 180, ("store",), lambda it: served.files(it.size.grid, "cells")),
    Step("peers", beside.peers, 10, 60, ("store",), _files("peers.json")),
    Step("exact", beside.exactness, 10, 45, ("store",), _files("exact.json")),
    Step("link", served.link, 15, 90, (), lambda it: served.files(it.size.link_grid, "link")),
    Step("host", served.hosted, 10, 75, ("store",), lambda it: served.files(it.size.host_grid, "host")),
    Step("arrivals", served.arrivals, 10, 40, ("store",), lambda it: served.files(it.size.arrivals_grid, "arrivals")),
    Step("again", served.again, 10, 120, ("cells",), lambda it: served.files(it.size.again, "cells", ".2")),
    Step("profile", beside.profile, 10, 45, ("store",), _files("passes.json", "passes.json.gz")),
    Step("decisions", served.decisions, 10, 45, ("cells",), _files("decisions.json")),
    Step("beside", processes.beside, 10, 120, (), _files("beside.json")),
)
MINUTES = 9.0
"""What ``most_s`` is meant for; with more time each step may take longer in proportion."""


def chosen(only: str) -> list[Step]:
    """The steps named in ``only=``, all without it. UserError for a name that is none."""
    names = only.split(",") if only else [step.name for step in STEPS]
    known = [step.name for step in STEPS]
    for name in names:
        if name not in known:
            raise UserError(f"only={only}: {name!r} is no step; {allowing(name, known)}")
    return [step for step in STEPS if step.name in names]


def run(plan: Sequence[Step], bench: Bench, clock: Clock) -> dict[str, str]:
    """Run what is not done, in order, as time allows, unless the preflight fails; the state of each step of the plan.

    UserError where another process is at it.
    """
    record = bench.record
    with claim(bench.folder):
        for step in plan:
            missing = [need for need in step.needs if record.states[need].state not in ("done", "stopped")]
            wanted = step.name == "store" and any(_outstanding(it, bench) for it in plan if "store" in it.needs)
            if not _outstanding(step, bench) and not wanted:  # a model is in no file
                say(f"{step.name}: done before")
            elif missing:
                record.note(step.name, State("outstanding", f"needs {one_of(missing)}"))
            elif clock.left() < step.least_s:
                record.note(step.name, State("outstanding", f"{max(0.0, clock.left()):.0f} s were left"))
            else:
                record.note(step.name, _run(step, bench, clock))
            if step.name == "preflight" and record.states[step.name].state == "failed":
                break
    return {step.name: record.states[step.name].state for step in plan}


def _outstanding(step: Step, bench: Bench) -> bool:
    return bench.record.states[step.name].state != "done" or not all(
        (bench.folder / name).exists() for name in step.leaves(bench)
    )


def _run(step: Step, bench: Bench, clock: Clock) -> State:
    before = bench.record.states[step.name]
    wall, cpu = time.monotonic(), time.process_time()

    def ended(state: str, said: str) -> State:
        spent = time.monotonic() - wall, time.process_time() - cpu
        say(f"{step.name}: {state} in {spent[0]:.1f} s{': ' * bool(said)}{said}")
        return State(state, said, round(before.wall_s + spent[0], 2), round(before.cpu_s + spent[1], 2))

    def last_words() -> None:
        bench.record.note(step.name, ended("failed", "hung in one call; the process was ended"))
        sys.stdout.write(bench.record.table())

    say(f"{step.name}: {clock.left():.0f} s left")
    seconds = min(clock.left(), step.most_s * max(1.0, clock.seconds / (60 * MINUTES)))
    try:
        with clock.limit(seconds, last_words):
            said = step.run(bench)
    except OutOfTimeError:
        state = ended("stopped", f"after {seconds:.0f} s, which it may have")
    except UserError as error:
        state = ended("failed", in_short(error))
    except Exception as error:  # a bug of ours, or a device that gave up: the next steps are still worth having
        traceback.print_exc()
        state = ended("failed", in_short(error, kind=True))
    else:
        return ended("done", said)
    with suppress(RuntimeError):  # of a device that has given up: each step that is left will say so
        gc.collect()  # what the failed step still held on the device
        bench.empty_cache()
    return state
