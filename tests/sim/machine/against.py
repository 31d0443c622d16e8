"""The engine and the textbook machine on one case: all accounts, and all that a policy is told and sees."""

from dataclasses import asdict
from typing import Any

from policies.api import Policy, Setup
from sim.core.core import Core
from tests.sim.machine.cases import NoSignals, record
from tests.sim.machine.restless import Case, Told
from tests.sim.machine.textbook import Textbook


def agree(
    textbook: type[Textbook], case: Case, kind: type[Policy], given: dict[str, Any], **parameters: object
) -> tuple[Any, Core]:
    """Both machines, on which a policy of ``kind`` did the same. ``given``: what they are told beside the case."""
    made: list[Policy] = []

    def make(setup: Setup) -> Policy:
        made.append(kind(setup, **parameters))
        return made[-1]

    given = {"depth": case.depth, "policy_ns": case.policy_ns, "lanes": case.lanes, **given}
    slow = textbook(make(case.setup), case.setup, NoSignals(), case.costs, **given)
    expected = slow.run(case.warmup, case.passes)
    expected.check()
    accounts, core = record(make, case.setup, case.passes, warmup=case.warmup, **given)
    if isinstance(made[0], Told):
        for i, (by_textbook, by_engine) in enumerate(zip(made[0].told, made[1].told, strict=False)):
            assert by_engine == by_textbook, i
        assert len(made[0].told) == len(made[1].told) == len(made[2].told)
        assert made[1].told == made[2].told
    assert asdict(accounts) == asdict(expected)
    assert core.state.peak == slow.peak
    return slow, core
