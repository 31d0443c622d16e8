"""What a policy needs and a trace has not: said in one line, with what makes the policy do without."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from policies.api import Policy, Signal
from traces import Trace
from traces.format.layout import SIGNALS
from traces.kit.errors import UserError, one_of

Build = Callable[[Mapping[str, Any]], Policy]
"""Makes the policy, with other values of some parameters."""


@dataclass(frozen=True, slots=True)
class There:
    """What there is for a policy."""

    word: str  # names the trace
    trace: Trace | None  # its train requests are learned from
    train: Sequence[int]
    predictors: Collection[str]
    signals: Collection[Signal]
    layers_ahead: int  # how far gate_ahead looks
    validation: bool = False
    """Some of the train requests are measured, so no predictor that was fitted on them counts."""
    live: bool = False  # a model that runs shows the signals itself


@dataclass(frozen=True, slots=True)
class Lack:
    """What is missing, ``ways`` to do without (switches, or commands), and how a message ends that offers ``{}``."""

    what: str
    ways: tuple[str, ...] = ()
    offer: str = "; allowed: {}"
    otherwise: str = ""  # the end of the message where there is nothing to offer
    vetoes: bool = True  # whether it makes a switch that leads here useless


def check(policy: Policy, there: There, build: Build) -> None:
    """UserError where something is missing; it names the ways to do without after which nothing is."""
    lack = _lack(policy, there)
    if lack is not None:
        ways = [enough for way in lack.ways if (enough := _enough(way, there, build))]
        raise UserError(lack.what + (lack.offer.format(", or ".join(ways)) if ways else lack.otherwise))


def _lack(policy: Policy, there: There) -> Lack | None:
    return _signals(policy, there) or _distance(policy, there) or _predictors(policy, there) or _train(policy, there)


def _signals(policy: Policy, there: There) -> Lack | None:
    missing = sorted(policy.needs() - set(there.signals))
    if not missing:
        return None
    assert there.trace is not None  # a model that runs shows all
    recorded = one_of(signal for signal in SIGNALS if there.trace.has(signal))
    switches = [policy.without.get(signal, "") for signal in missing]
    return Lack(
        f"policy={policy.name} needs the signal{'s' * (len(missing) > 1)} {one_of(missing)}, which trace={there.word}"
        f" did not record; recorded: {recorded}",
        (" ".join(switches),) if all(switches) else (),
        otherwise="; there is no fallback",
    )


def _distance(policy: Policy, there: There) -> Lack | None:
    asked = policy.layers_ahead()
    if asked is None or Signal.GATE_AHEAD not in policy.needs() or asked <= there.layers_ahead:
        return None
    who = "a model that runs shows" if there.live else f"trace={there.word} recorded"
    by = f"policy.{policy.ahead}={asked}: " if isinstance(policy.ahead, str) else ""
    return Lack(
        f"{by}policy={policy.name} reads gate_ahead {'so many' if by else asked} layers ahead;"
        f" {who}, and allowed: 1 to {there.layers_ahead}"
    )


def _predictors(policy: Policy, there: There) -> Lack | None:
    missing = sorted(policy.predictors() - set(there.predictors))
    if not missing:
        return None
    switches = [way for way in policy.unfitted(there.signals) if way.startswith("policy.") and " after " not in way]
    if there.live:
        fit = "give predictor=FILE, of python -m policies fit"
        what = f"policy={policy.name} needs the predictor {one_of(missing)}: {fit}"
        return Lack(what, tuple(switches), ", or {}")
    if there.validation:
        return Lack(
            f"policy={policy.name} needs the predictor {one_of(missing)}, which was fitted on the requests that"
            " measure=validation measures",
            (*switches, "measure=test"),
        )
    return Lack(
        f"policy={policy.name} needs the predictor {one_of(missing)}, which was not fitted for trace={there.word};"
        f" there are: {one_of(there.predictors) or 'none'}",
        tuple(policy.unfitted(there.signals)),
    )


def _train(policy: Policy, there: There) -> Lack | None:
    if there.train or not policy.wants_history():
        return None
    what = f"policy={policy.name} learns from train requests"
    return Lack(
        f"{what}: give trace=, of this model, with a split"
        if there.live
        else f"{what}, and trace={there.word} has no split; import or collect it with split=0.7",
        (policy.unlearned,) if policy.unlearned else (),
        ", or give {}",
        vetoes=False,  # another split mends it
    )


def _enough(way: str, there: There, build: Build) -> str:
    """``way``, with the switches that it calls for in turn; empty where something is missing all the same."""
    given: dict[str, str] = {}
    while all(word.startswith("policy.") for word in way.split()):
        more = dict(word.removeprefix("policy.").split("=", 1) for word in way.split())
        if more.keys() <= given.keys():
            return ""
        given |= more
        try:
            lack = _lack(build({key: yaml.safe_load(value) for key, value in given.items()}), there)
        except UserError:
            return ""
        if lack is None or not (lack.ways or lack.vetoes):
            return " ".join(f"policy.{key}={value}" for key, value in given.items())
        if not lack.ways:
            return ""
        way = lack.ways[0]
    return "" if given else way  # a command, which is more than a switch
