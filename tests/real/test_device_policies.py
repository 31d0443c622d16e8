"""Every policy on a device: its decisions follow from the log of facts, and a lossless one changes no bit."""

from __future__ import annotations

import pytest
import yaml
from lab import CONF, PREDICTORS, Routing, Variant, draw, ready
from restless import Lossy, Restless, Unruly
from rig import CPU, All, Ran, Rig, follow
from tiny_models import E, K, L, tiny

from policies.lru import LRU
from real.offloaded import Offloaded
from traces.errors import UserError

SHIPPED = [
    Variant(given.pop("name"), tuple(given.items()), title=path.stem)
    for path in sorted(CONF.glob("*.yaml"))
    if (given := yaml.safe_load(path.read_text()))
]
"""Every YAML of conf/policy."""


@pytest.fixture(scope="module")
def rig() -> Rig:
    return Rig(Offloaded(tiny("olmoe"), CPU), chunks=2, depth=2, predictors=PREDICTORS)


@pytest.fixture(scope="module")
def routing() -> Routing:
    return draw(3, L, E, K, decode=5)


@pytest.fixture(scope="module")
def whole(rig: Rig, routing: Routing) -> Ran:
    setup = rig.setup(rig.experts * rig.nbytes)
    return follow(rig, All(setup), All(setup), routing).check()


@pytest.mark.parametrize("variant", SHIPPED, ids=str)
def test_decisions_follow_from_the_log_of_facts(variant: Variant, rig: Rig, routing: Routing, whole: Ran) -> None:
    for held in (rig.experts // 4, rig.experts // 2, rig.experts):
        setup = variant.roomy(rig.setup(held * rig.nbytes))
        policy, fresh = (ready(variant.build(setup), routing) for _ in range(2))
        ran = follow(rig, policy, fresh, routing).check()
        assert ran.core.state.peak <= setup.budget - policy.gpu_bytes()
        assert ran.core.pool.slots * rig.nbytes <= setup.budget - policy.gpu_bytes()
        assert all(scores.isfinite().all() for scores in ran.logits)
        if policy.lossless:
            assert ran.same_logits(whole), held


# A layer that saw no token was told as an event without demand, which the simulator leaves out, and passed on what
# had entered it.
def test_a_layer_that_saw_nothing_has_no_event(rig: Rig) -> None:
    drawn = draw(4, L, E, K, decode=5)
    drawn.ids[-3:, 2] = 255
    drawn.ids[-2, 1, 1:] = 255
    seen = []
    for held, policy in ((1, LRU), (rig.experts, LRU), (rig.experts, All)):
        setup = rig.setup(held * rig.nbytes)
        seen.append(follow(rig, policy(setup), policy(setup), drawn).check())
        choices = (drawn.ids != 255).sum()
        assert seen[-1].core.accounts.hit_row()[0] <= choices  # prefills join what their tokens chose
        assert seen[-1].same_logits(seen[0])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", [Restless, Unruly])
def test_whatever_a_policy_may_do(kind: type[Restless], seed: int, rig: Rig, routing: Routing, whole: Ran) -> None:
    for held in (1, 5, rig.experts):
        setup = rig.setup(held * rig.nbytes)
        ran = follow(rig, kind(setup), kind(setup), routing).check()
        assert ran.same_logits(whole), held


# -- lossy ------------------------------------------------------------------------------------------------------


class Vague(Lossy):
    """Computes other experts, and does not say which tokens they are for."""


def test_below_the_least_budget_it_is_refused(rig: Rig) -> None:
    for variant in SHIPPED:
        least = variant.roomy(rig.setup(1)).budget
        with pytest.raises(UserError, match=rf"budget={least - 1}: too small .* at least {least} bytes"):
            variant.build(rig.setup(least - 1))
