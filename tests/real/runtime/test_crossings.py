"""How often a pass crosses between host and device, and waits for it; with everything resident, at its end alone."""

import ast
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from policies.api import LayerEvent, Step
from policies.lru import LRU
from real.runtime import engine as engines
from real.runtime.events import Run
from real.runtime.machine import Machine
from real.runtime.offloaded import Offloaded
from real.runtime.runner import running
from real.runtime.tiny import Counting
from sim.check.synthetic import draw
from sim.machine.listener import PASS
from tests.real.runtime.rig import All, Given, Rig, passes_of, serve, torch
from tests.traces.models.tiny import E, K, tiny

LAYERS = 16
"""OLMoE-1B-7B's."""
CPU = torch.device("cpu")
RUNTIME = Path(engines.__file__).parent
HOT = ("events", "compute", "pool", "machine", "behind", "hosted", "engine", "recorded", "runner")
"""Modules that a pass runs through. What reads signals for a policy (live, offloaded) waits where the policy asks."""
CROSSING = {"cpu", "numpy", "item", "tolist", "cuda", "nonzero", "to", "pin_memory", "is_nonzero", "unique", "type"}


@dataclass
class Seen:
    """One pass: its crossings, whether all was resident as it began, and facts told before it had ended and after."""

    resident: bool
    crossings: dict[str, int] = field(default_factory=dict)
    told: dict[str, int] = field(default_factory=lambda: {"during": 0, "after": 0})


@dataclass
class Counted:
    """A rig whose backend counts, and what each pass had."""

    rig: Rig
    counting: Counting
    passes: list[Seen] = field(default_factory=list)


def counted(
    monkeypatch: pytest.MonkeyPatch, exact: bool = True, family: str = "olmoe", layers: int = LAYERS
) -> Counted:
    model = Offloaded(tiny(family, num_hidden_layers=layers), CPU, exact=exact)
    model.backend = counting = Counting(model.backend)
    made = Counted(Rig(model), counting)
    begin, end, gate, phase = Run.begin, Run.end, Machine.gate, ["during"]

    def begun(run: Run, step: Any) -> None:
        counting.seen.clear()
        begin(run, step)
        made.passes.append(Seen(run.machine.resident))
        phase[0] = "during"

    def ended(run: Run) -> None:
        phase[0] = "after"
        end(run)
        made.passes[-1].crossings = dict(counting.seen)

    def told(machine: Machine, *args: Any) -> LayerEvent:
        made.passes[-1].told[phase[0]] += 1
        return gate(machine, *args)

    monkeypatch.setattr(Run, "begin", begun)
    monkeypatch.setattr(Run, "end", ended)
    monkeypatch.setattr(Machine, "gate", told)
    monkeypatch.setattr(engines, "upload", lambda host, device: counting.upload(host))
    return made


def forced(seen: Counted, held: int, policy: type[LRU] = LRU, rows: int = 1) -> dict[str, int]:
    """The crossings of the last of several passes over the same experts: all there, from the second on."""
    rig, drawn = seen.rig, draw(3, LAYERS, E, K, decode=6)
    last = drawn.ids[-1].copy()
    drawn.ids[:] = last
    machine = rig.machine(policy, held)
    passes = [step for step in passes_of(drawn) if not step.prefill]
    with running(rig.model, machine, Given(drawn)) as runner:
        for step in (replace(passes[0], prefill=True), *passes[1:]):
            runner.forward(step, [7], lambda logits: None)
        runner.finish()
    return seen.passes[-1].crossings


# Each layer read the ids that it did not need, and sent the order of its rows: 2 waits, 34 in a pass of 16 layers.
@pytest.mark.parametrize("held", [LAYERS * K, LAYERS * E - 1])
def test_a_layer_with_a_recorded_routing_waits_once(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = forced(counted(monkeypatch), held)
    assert seen == {"waits": LAYERS, "uploads": 1}, "its gates, and its token"


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "grouped"])
def test_with_everything_resident_it_does_not_wait(exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = forced(counted(monkeypatch, exact), LAYERS * E, All)
    assert seen == {"uploads": 1 if exact else 2}, "its token, and for the grouped kernel its routing, at once"


# Weights and ids came down one after the other, each waited for: 50 waits in a pass of 16 layers.
def test_a_layer_of_the_model_s_own_routing_reads_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = counted(monkeypatch)
    prompts, wanted = ((5, 9, 11),), (8,)
    serve(made.rig, All, LAYERS * E - 1, prompts=prompts, new_tokens=wanted)
    assert made.passes[-1].crossings == {"downloads": LAYERS, "uploads": 1}
    made.passes.clear()
    serve(made.rig, All, LAYERS * E - 1, 2, prompts=prompts * 2, new_tokens=wanted * 2)
    assert made.passes[-1].crossings["downloads"] == LAYERS
    assert made.passes[-1].crossings["uploads"] == LAYERS + 1, "and the order of two tokens' rows"
    assert "waits" not in made.passes[-1].crossings


def test_with_everything_resident_and_grouped_it_reads_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = counted(monkeypatch, exact=False)
    serve(made.rig, All, LAYERS * E, prompts=((5, 9, 11),), new_tokens=(8,))
    assert made.passes[-1].crossings == {"downloads": 1, "uploads": 1}


def test_a_pass_of_several_tokens_sends_its_routing_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = counted(monkeypatch)
    rig, drawn = made.rig, draw(3, LAYERS, E, K, decode=0)
    machine = rig.machine(LRU, 9)
    (step, *_) = [step for step in passes_of(drawn) if step.prefill and step.rows > 1]
    with running(rig.model, machine, Given(drawn)) as runner:
        uploads = runner.forward(step, list(range(step.rows)), lambda logits: made.counting.seen["uploads"])
        assert uploads == 2, "all layers' rows, and the tokens"
        runner.finish()


# A wait for the ids in each layer: the device idles while the CPU learns what it need not know.
@pytest.mark.parametrize("family", ["olmoe", "deepseek_v3"])
def test_with_everything_resident_the_facts_are_told_at_the_end(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = counted(monkeypatch, False, family, 4)
    ran = serve(made.rig, All, made.rig.experts, 4).check()
    n_layers = ran.core.setup.n_layers
    resident = [step for step in made.passes if step.resident]
    assert len(resident) > 5
    assert all(step.crossings["downloads"] == 1 for step in resident)
    assert all(step.told == {"during": 0, "after": n_layers} for step in resident)
    others = [step for step in made.passes if not step.resident]
    assert all(step.crossings["downloads"] == n_layers for step in others)
    assert all(step.told == {"during": n_layers, "after": 0} for step in others)


# Experts were taken for resident that the policy had evicted as the step began.
def test_what_is_evicted_as_a_step_begins_is_not_resident(monkeypatch: pytest.MonkeyPatch) -> None:
    class Evicting(All):
        def on_step(self, step: Step) -> None:
            if step.number == 12:
                assert self.actions.evict(3)
            super().on_step(step)

    made = counted(monkeypatch, exact=False, layers=4)
    rig, passes = made.rig, made.passes
    whole = serve(rig, All, rig.experts).check()
    passes.clear()
    assert serve(rig, Evicting, rig.experts).check().same_logits(whole)
    assert [step.resident for step in passes[10:12]] == [True, False]
    assert passes[-1].resident


# Facts that are told late were counted with a wall time that was over, or copies without a load.
def test_the_accounts_of_resident_passes_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    made = counted(monkeypatch, exact=False, layers=4)
    rig, passes = made.rig, made.passes
    ran = serve(rig, All, rig.experts, 4).check()
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


# A crossing that the counter does not see would be none.
@pytest.mark.parametrize("name", HOT)
def test_what_crosses_does_so_by_the_backend(name: str) -> None:
    tree = ast.parse((RUNTIME / f"{name}.py").read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    crossing = {ast.unparse(call) for call in calls if call.func.attr in CROSSING}
    host = {call for call in crossing if call.startswith(HOST)}
    assert crossing - host == set(), f"{name}.py"
    keywords = [word for call in calls for word in call.keywords if word.arg == "device"]
    made = {ast.unparse(call) for call in calls if any(word in keywords for word in call.keywords)}
    assert all(call.startswith("torch.empty(") for call in made), made


HOST = (
    "layers[:, 0].tolist(",  # dispatch: NumPy's
    "ends[i, chosen].tolist(",
    "chosen.tolist(",
    "weighted.view(n, top_k, -1).sum(dim=1).to(hidden.dtype",  # compute: another type, where it is
    "torch.from_numpy(chosen).to(weights.dtype",  # events: on the host
    "tokens[first:first + rows].tolist(",  # forced: NumPy's
)
"""Calls that look like a crossing, of what is on one side."""


def test_compute_that_waits_is_woken_before_the_link_is_refilled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The expert is told complete, and whoever waits for it is woken, before the policy is asked for the next copy."""
    rig, said = Rig(Offloaded(tiny("olmoe"), CPU)), list[str]()

    class Noted(Machine):
        def start(self) -> None:
            notify = self._ready.notify

            def noted(n: int = 1) -> None:
                said.append("wake")
                notify(n)

            monkeypatch.setattr(self._ready, "notify", noted)
            super().start()

        def _arrived(self) -> None:
            super()._arrived()
            if self.core.ready and self._waiting_since is not None:
                said.append("complete")

        def _hand_over(self) -> None:
            said.append("fill")
            super()._hand_over()

    rig.machine_type = Noted
    serve(rig, LRU, 2).check()
    after = [said[i + 1] for i, what in enumerate(said) if what == "complete"]
    assert len(after) > 20
    assert set(after) == {"wake"}
