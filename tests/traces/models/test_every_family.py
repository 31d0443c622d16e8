"""Every mixture of experts of the installed library is recorded truly or refused in a line: none is silently wrong."""

from typing import Any

import numpy as np
import pytest
import torch  # noqa: F401 - the module is left out without it

from tests.traces.models.every_family import PADDING, RECORDED, RELEASE, SINCE, VERDICTS, configuration, mixtures
from tests.traces.models.spy import spied_pass
from tests.traces.models.tiny import build
from traces.collect.probe import check_cache
from traces.kit.errors import UserError
from traces.models.families import INPUTS, REFUSED, inspect_model
from traces.models.laws import FAMILIES, OTHERS

KNOWN = (5, 24)
"""The release whose families are all in VERDICTS."""
PROMPTS = [[10, 11, 12, 13, 14], [20, 21]]


def test_each_is_known() -> None:
    """A family that a later release adds is tried by the next test, whether it is known or not."""
    if RELEASE <= KNOWN:
        assert set(mixtures()) <= VERDICTS.keys()
    if RELEASE == KNOWN:
        assert set(mixtures()) == VERDICTS.keys()


def test_what_the_code_says_by_name_is_a_mixture() -> None:
    names = {name.removesuffix("_text") for name in VERDICTS}
    assert FAMILIES.keys() | OTHERS.keys() | REFUSED.keys() <= names
    refused = {name.removesuffix("_text") for name, verdict in VERDICTS.items() if verdict not in (RECORDED, PADDING)}
    assert refused == REFUSED.keys()


@pytest.mark.ci
@pytest.mark.parametrize("model_type", mixtures())
def test_each_is_recorded_truly_or_refused(model_type: str) -> None:
    verdict = None if SINCE.get(model_type, RELEASE) > RELEASE else VERDICTS.get(model_type)
    try:
        model = build(model_type, **configuration(model_type))
    except Exception as error:  # sizes that a release refuses
        if verdict is None:
            pytest.skip(f"not known, and these sizes are not its own: {error}")
        raise
    said = complaint(model, PROMPTS[:1])
    if said is not None:
        assert "\n" not in said
        assert verdict not in (RECORDED, PADDING)
        assert verdict is None or verdict in said
        return
    assert verdict in (RECORDED, PADDING, None)
    said = complaint(model, PROMPTS)
    assert said is None if verdict == RECORDED else verdict is None or (said or "").endswith(PADDING)


def complaint(model: Any, prompts: Any) -> str | None:
    """Why it is not recorded, in a batch of those prompts; None: it is."""
    try:
        recorded(model)
        check_cache(inspect_model(model), prompts)
    except UserError as error:
        return str(error)
    return None


def recorded(model: Any) -> None:
    """A pass is recorded, and what it says is what the experts were called with."""
    moe = inspect_model(model)
    arrays, calls, _ = spied_pass(model)
    assert len(calls) == len(moe.layers)
    if moe.layers[0].way == INPUTS:
        return
    for layer, (_, called, _) in enumerate(calls):
        theirs = [sorted(int(x) for x in row if x < moe.n_experts) for row in called]
        assert theirs == [sorted(int(x) for x in row if x < moe.n_experts) for row in arrays["expert_ids"][:, layer]]
    assert np.isfinite(arrays["router_probs"]).all()
