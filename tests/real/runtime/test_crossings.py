"""How often a pass crosses between host and device, and waits for it."""

import ast
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from policies.lru import LRU
from real.runtime import engine as engines
from real.runtime.events import Run
from real.runtime.machine import Machine
from real.runtime.offloaded import Offloaded
from real.runtime.runner import running
from real.runtime.tiny import Counting
from sim.check.synthetic import draw
from tests.real.runtime.rig import All, Given, Rig, passes_of, serve, torch
from tests.sim.machine.cases import NoSignals
from tests.traces.models.tiny import E, K, tiny

LAYERS = 16
"""OLMoE-1B-7B's."""
CPU = torch.device("cpu")
RUNTIME = Path(engines.__file__).parent
HOT = ("events", "compute", "pool", "machine", "behind", "engine", "recorded", "runner")
"""Modules that a pass runs through. What reads signals for a policy (live, offloaded) waits where the policy asks."""
CROSSING = {"cpu", "numpy", "item", "tolist", "cuda", "nonzero", "to", "pin_memory", "is_nonzero", "unique", "type"}


@dataclass
class Counted:
    """A rig whose backend counts, and what each pass had."""

    rig: Rig
    counting: Counting
    passes: list[dict[str, int]] = field(default_factory=list)


@pytest.fixture(params=[True, False], ids=["exact", "grouped"])
def exact(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def counted(monkeypatch: pytest.MonkeyPatch, exact: bool = True) -> Counted:
    model = Offloaded(tiny("olmoe", num_hidden_layers=LAYERS), CPU, exact=exact)
    model.backend = counting = Counting(model.backend)
    made = Counted(Rig(model), counting)
    begin, end = Run.begin, Run.end

    def begun(run: Run, step: Any) -> None:
        counting.seen.clear()
        begin(run, step)

    def ended(run: Run) -> None:
        end(run)
        made.passes.append(dict(counting.seen))

    monkeypatch.setattr(Run, "begin", begun)
    monkeypatch.setattr(Run, "end", ended)
    monkeypatch.setattr(engines, "upload", lambda host, device: counting.upload(host))
    return made


def forced(seen: Counted, held: int, policy: type[LRU] = LRU, rows: int = 1) -> list[dict[str, int]]:
    """The crossings of each pass over the same experts again and again: all there, from the second on."""
    rig, drawn = seen.rig, draw(3, LAYERS, E, K, decode=6)
    last = drawn.ids[-1].copy()
    drawn.ids[:] = last
    machine = rig.machine(policy(rig.setup(held * rig.nbytes)), NoSignals())
    passes = [step for step in passes_of(drawn) if not step.prefill]
    with running(rig.model, machine, Given(drawn)) as runner:
        for step in (replace(passes[0], prefill=True), *passes[1:]):
            runner.forward(step, [7], lambda logits: None)
        runner.finish()
    return seen.passes


# Each layer read the ids that it did not need, and sent the order of its rows: 2 waits, 34 in a pass of 16 layers.
@pytest.mark.parametrize("held", [LAYERS * K, LAYERS * E - 1])
def test_a_layer_with_a_recorded_routing_waits_once(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = forced(counted(monkeypatch), held)
    assert seen[-1] == {"waits": LAYERS, "uploads": 1}, "its gates, and its token"


def test_with_everything_resident_it_does_not_wait(exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = forced(counted(monkeypatch, exact), LAYERS * E, All)
    assert seen[-1] == {"uploads": 1 if exact else 2}, "its token, and for the grouped kernel its routing, at once"


# Weights and ids came down one after the other, each waited for: 50 waits in a pass of 16 layers.
def test_a_layer_of_the_model_s_own_routing_reads_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = counted(monkeypatch)
    prompts, wanted = ((5, 9, 11),), (8,)
    serve(made.rig, All, (LAYERS * E - 1) * made.rig.nbytes, prompts=prompts, new_tokens=wanted)
    assert made.passes[-1] == {"downloads": LAYERS, "uploads": 1}
    made.passes.clear()
    serve(made.rig, All, (LAYERS * E - 1) * made.rig.nbytes, 2, prompts=prompts * 2, new_tokens=wanted * 2)
    assert made.passes[-1]["downloads"] == LAYERS
    assert made.passes[-1]["uploads"] == LAYERS + 1, "and the order of two tokens' rows"
    assert "waits" not in made.passes[-1]


def test_with_everything_resident_and_grouped_it_reads_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = counted(monkeypatch, exact=False)
    serve(made.rig, All, LAYERS * E * made.rig.nbytes, prompts=((5, 9, 11),), new_tokens=(8,))
    assert made.passes[-1] == {"downloads": 1, "uploads": 1}


def test_a_pass_of_several_tokens_sends_its_routing_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = counted(monkeypatch)
    rig, drawn = made.rig, draw(3, LAYERS, E, K, decode=0)
    machine = rig.machine(LRU(rig.setup(9 * rig.nbytes)), NoSignals())
    (step, *_) = [step for step in passes_of(drawn) if step.prefill and step.rows > 1]
    with running(rig.model, machine, Given(drawn)) as runner:
        uploads = runner.forward(step, list(range(step.rows)), lambda logits: made.counting.seen["uploads"])
        assert uploads == 2, "all layers' rows, and the tokens"
        runner.finish()


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
    serve(rig, LRU, 2 * rig.nbytes).check()
    after = [said[i + 1] for i, what in enumerate(said) if what == "complete"]
    assert len(after) > 20
    assert set(after) == {"wake"}
