"""With everything resident and the grouped kernel no layer waits for its ids: the facts are told at the pass's end."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from policies.api import LayerEvent, Step
from real.runtime.events import Run
from real.runtime.machine import Machine
from real.runtime.offloaded import Offloaded
from sim.machine.listener import PASS
from tests.real.runtime.rig import CPU, All, Rig, serve, torch
from tests.traces.models.tiny import tiny

READS = ("cpu", "numpy", "tolist", "item", "__bool__", "__int__", "__float__", "__index__", "nonzero", "unique")
"""What makes the CPU wait for a tensor's values."""


@dataclass
class Seen:
    """One pass: reads of values by its layers, and facts told before it had ended and after."""

    resident: bool
    reads: list[str] = field(default_factory=list)
    told: dict[str, int] = field(default_factory=lambda: {"during": 0, "after": 0})


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[Seen]:
    """What happened in each pass, as they are run."""
    seen: list[Seen] = []
    inside, phase = [False], ["after"]
    event, end, begin, gate = Run.event, Run.end, Run.begin, Machine.gate

    def begun(run: Run, step: Any) -> None:
        begin(run, step)
        seen.append(Seen(run.machine.resident))
        phase[0] = "during"

    def layer(run: Run, *args: Any) -> Any:
        inside[0] = True
        try:
            return event(run, *args)
        finally:
            inside[0] = False

    def ended(run: Run) -> None:
        phase[0] = "after"
        end(run)

    def told(machine: Machine, *args: Any) -> LayerEvent:
        seen[-1].told[phase[0]] += 1
        return gate(machine, *args)

    for owner, name, replacement in ((Run, "begin", begun), (Run, "event", layer), (Run, "end", ended)):
        monkeypatch.setattr(owner, name, replacement)
    monkeypatch.setattr(Machine, "gate", told)
    for name in READS:

        def read(tensor: Any, *args: Any, _name: str = name, _original: Any = getattr(torch.Tensor, name)) -> Any:  # noqa: B008
            if inside[0]:
                seen[-1].reads.append(_name)
            return _original(tensor, *args)

        monkeypatch.setattr(torch.Tensor, name, read)
    return seen


# A wait for the ids in each layer: the device idles while the CPU learns what it need not know.
@pytest.mark.parametrize("family", ["olmoe", "deepseek_v3"])
def test_no_layer_waits_for_its_ids(family: str, passes: list[Seen]) -> None:
    rig = Rig(Offloaded(tiny(family), CPU, exact=False))
    ran = serve(rig, All, rig.experts * rig.nbytes, 4).check()
    n_layers = ran.core.setup.n_layers
    resident = [step for step in passes if step.resident]
    assert len(resident) > 5
    assert not any(step.reads for step in resident)
    assert all(step.told == {"during": 0, "after": n_layers} for step in resident)
    others = [step for step in passes if not step.resident]
    assert all(step.reads.count("numpy") >= n_layers for step in others), "the watch sees nothing"
    assert all(step.told == {"during": n_layers, "after": 0} for step in others)


# Experts were taken for resident that the policy had evicted as the step began.
def test_what_is_evicted_as_a_step_begins_is_not_resident(passes: list[Seen]) -> None:
    class Evicting(All):
        def on_step(self, step: Step) -> None:
            if step.number == 12:
                assert self.actions.evict(3)
            super().on_step(step)

    rig = Rig(Offloaded(tiny("olmoe"), CPU, exact=False))
    whole = serve(rig, All, rig.experts * rig.nbytes).check()
    del passes[:]
    assert serve(rig, Evicting, rig.experts * rig.nbytes).check().same_logits(whole)
    assert [step.resident for step in passes[10:12]] == [True, False]
    assert passes[-1].resident


# Facts that are told late were counted with a wall time that was over, or copies without a load.
def test_the_accounts_of_resident_passes_add_up(passes: list[Seen]) -> None:
    rig = Rig(Offloaded(tiny("olmoe"), CPU, exact=False))
    ran = serve(rig, All, rig.experts * rig.nbytes, 4).check()
    accounts = ran.accounts
    assert accounts.end_ns - accounts.start_ns == accounts.compute_ns + sum(accounts.stall_row())
    assert accounts.demand_bytes + accounts.speculative_bytes == rig.experts * rig.nbytes == ran.core.state.peak
    assert accounts.speculative_bytes == sum(accounts.fate_bytes)
    assert sum(accounts.fates) == accounts.issued
    assert 0 < accounts.link_busy_ns <= accounts.end_ns - accounts.start_ns
    dense = ran.machine.timeline.dense
    whole = sum(layer == PASS for layer in dense[2::3])
    assert whole == sum(step.resident for step in passes) > 5, "such a pass is one slice"
    assert len(dense) // 3 - whole == (len(passes) - whole) * (ran.core.setup.n_layers + 1)
