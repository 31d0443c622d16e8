"""``python -m sim check NAME``: does a policy keep the contract? Also one from another installed package."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from policies import registry
from sim.check.laws import (
    assert_causal,
    assert_decided,
    assert_keeps_the_rules,
    assert_minimum,
    assert_says_what_it_is,
    assert_serves,
    assert_spreads,
    digests,
)
from sim.check.tiers import assert_above_a_disk
from sim.check.variants import Variant, named
from traces.kit.errors import UserError, allowing, brief, meant, one_of
from traces.kit.telling import in_one_line
from traces.kit.units import counted
from traces.kit.words import Position

LAWS = ("causality", "rules", "serving", "GPUs", "disk", "minimum", "decided", "hash seeds", "docstring")


def _laws_named(value: str) -> tuple[str, ...]:
    """A mark: names of laws, with commas; capitals and blanks count for nothing."""
    known = {law.lower().replace(" ", "_"): law for law in LAWS}
    given = [word.strip().lower().replace(" ", "_") for word in value.split(",")]
    if strangers := [word for word in given if word not in known]:
        raise ValueError(f"{one_of(LAWS)}{meant(strangers[0], known)}")
    return tuple(law for law in LAWS if law.lower().replace(" ", "_") in given)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Tries a policy, with its defaults and with each parameter changed, on made-up
    requests and a watched machine. A parameter is changed by its type; values that
    the policy refuses are left out, and named.

      causality      nothing that it decides changes when everything after that
                     moment is changed
      rules          the budget holds at every answer, accounts add up (both also by
                     version, where experts have several), and it does the same
                     again, also from the log without a clock
      serving        so it does where passes mix prompts and output of requests
      GPUs           so it does with experts on several GPUs, or says why it cannot
      disk           so it does where the host holds some experts and a disk the
                     others, and where the host holds all it does as without a disk
      minimum        the budget that it declares as its least is enough, and one
                     byte less is refused
      decided        what it states is plain JSON, the same again, and asking for it
                     changes nothing
      hash seeds     the same in processes with other hash seeds
      docstring      the idea, its complexity O(...), and lossless, lossy or
                     of a modified model

    {keys}

    While a policy is being written, one law of one variant takes seconds:
      python -m sim check fmoe only=causality,rules variant=distance=4

    To have the layers that it needs, a policy that looks further than one layer
    ahead says so in ahead.
    Exit status: 0 it keeps all, 1 it breaks one, 2 there is no such policy.
    """

    names: Annotated[
        tuple[str, ...],
        Position("NAME"),
        "a policy of this project, of conf/policy, or of an installed package with an entry point in the group"
        " moe_offload.policies",
    ]
    only: Annotated[tuple[str, ...], _laws_named, "the laws to try, with commas, by their names above; empty: all"] = ()
    variant: Annotated[str, "one variant: what is changed, as in scope=layer, or default; empty: all"] = ""


def main(options: Options) -> int:
    """Check each policy that is named; returns the exit status."""
    found = {name: _variants(name, options.variant) for name in options.names}
    return max(_check(name, found[name], options) for name in found)


def print_digests(name: str, variant: str = "") -> None:
    sys.stdout.write(json.dumps(digests(_variants(name, variant)[0])))


def _variants(name: str, wanted: str = "") -> tuple[list[Variant], list[str]]:
    """The variants of a policy, or the one of that YAML, and what it refuses. UserError if there is none.

    ``wanted``: that one alone.
    """
    every = named(name)
    if wanted:
        short = {"default" if (own := str(it)) == name else own.removeprefix(f"{name}-"): it for it in every}
        if (one := short.get(wanted) or {str(it): it for it in every}.get(wanted)) is None:
            raise UserError(f"variant={brief(wanted)}: {name} has no such variant; {allowing(wanted, short)}")
        every = [one]
    first = every[0]
    taken, refused = [], []
    for variant in every:
        try:
            variant.world  # noqa: B018 - it is built
        except UserError:
            if variant == first:
                raise
            refused.append(str(variant).removeprefix(f"{name}-"))
        else:
            taken.append(variant)
    return taken, refused


Trial = tuple[str, Callable[[], object]]  # where, and what is tried there


def _check(name: str, found: tuple[Sequence[Variant], Sequence[str]], options: Options) -> int:
    tried, refused = found
    print(f"{name}: {counted(len(tried), 'variant')}")
    if refused:
        print(f"  left out, as it refuses them: {', '.join(refused)}")
    broken = 0
    for law, trials in _laws(name, tried, options.variant).items():
        if options.only and law not in options.only:
            continue
        told = "holds, tried 0 times"
        for number, (where, trial) in enumerate(trials, 1):
            told = f"holds, tried {counted(number, 'time')}"
            if (problem := _problem(trial)) is not None:
                told, broken = f"BROKEN: {where}{problem}", 1
                break
        print(f"  {law:<12} {told}", flush=True)
    return broken


def _laws(name: str, tried: Sequence[Variant], variant: str) -> dict[str, Iterator[Trial]]:
    causal = [variant for variant in tried if not registry.find(variant.name).clairvoyant]
    return {
        "causality": ((f"{v}, seed {seed}: ", partial(_causal, v, seed)) for v in causal for seed in range(4)),
        "rules": (
            (f"{v}, seed {seed}: ", partial(assert_keeps_the_rules, v, seed)) for v in tried for seed in range(6)
        ),
        "serving": ((f"{v}, seed {seed}: ", partial(assert_serves, v, seed)) for v in tried for seed in range(2)),
        "GPUs": ((f"{v}, seed {seed}: ", partial(assert_spreads, v, seed)) for v in tried for seed in range(3)),
        "disk": ((f"{v}, seed {seed}: ", partial(assert_above_a_disk, v, seed)) for v in tried for seed in range(3)),
        "minimum": ((f"{v}: ", partial(assert_minimum, v)) for v in tried),
        "decided": ((f"{v}: ", partial(assert_decided, v)) for v in tried),
        "hash seeds": iter([("", partial(_same_everywhere, name, variant))]),
        "docstring": iter([("", partial(assert_says_what_it_is, tried[0].name))]),
    }


def _causal(variant: Variant, seed: int) -> None:
    assert_causal(lambda setup, _: variant.build(setup), seed, variant.world)


def _problem(trial: Callable[[], object]) -> str | None:
    try:
        trial()
    except AssertionError as error:
        return str(error)
    except Exception as error:  # the policy's own
        return in_one_line(error)
    return None


def _same_everywhere(name: str, variant: str) -> None:
    program = "import sys; from sim.check.cli import print_digests; print_digests(*sys.argv[1:])"
    command = [sys.executable, "-P", "-c", program, name, variant]
    path = os.pathsep.join(entry for entry in sys.path if entry)
    outputs = set()
    for seed in ("0", "1"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise AssertionError(f"failed in a process of its own: {(done.stderr.splitlines() or ['?'])[-1]}")
        outputs.add(done.stdout)
    if len(outputs) > 1:
        raise AssertionError("decided otherwise under another PYTHONHASHSEED")
