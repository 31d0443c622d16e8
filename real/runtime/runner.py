"""One way to run on a device: a machine for a policy, and passes of the model that go through it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from policies.api import Policy, Setup
from real.runtime.engine import Engine
from real.runtime.events import Feed, Run
from real.runtime.hosted import HostedMachine
from real.runtime.machine import Machine
from real.runtime.offloaded import Offloaded
from real.runtime.pool import Pool
from real.runtime.versions import ItemPool, Versions
from sim.core.acting import stated
from sim.core.core import Core, StepSignals
from sim.core.several import core_of
from sim.prices import HardwareProfile
from sim.results.document import Outcome
from sim.workload.passes import Pass
from traces.kit.errors import UserError, one_of
from traces.models.devices import free_memory

T = TypeVar("T")


@dataclass(frozen=True)
class DeviceRun:
    """What a run on a device left: its accounts, its log of facts, and what it did when."""

    outcome: Outcome
    machine: Machine

    @property
    def core(self) -> Core:
        return self.machine.core


@dataclass
class Runner:
    """Passes of a model under a policy; made by :func:`running`."""

    run: Run
    engine: Engine
    facts: Mapping[str, Any]
    """What the policy decided before the first pass."""

    def forward(self, step: Pass, tokens: Sequence[int], read: Callable[[Tensor], T], every: bool = False) -> T:
        """One pass. What ``read`` makes of its logits belongs to it: as one who generates waits for them.

        Logits [requests, V], or of ``every`` token one [rows, V].
        """
        self.run.feed.enter(step, tokens)
        self.run.begin(step)
        found = read(self.engine.forward(step, tokens, every))
        self.run.end()
        return found

    def finish(self) -> DeviceRun:
        """The last pass has ended."""
        machine = self.run.machine
        policy, accounts = machine.core.policy, machine.finish()
        return DeviceRun(Outcome(policy, machine.core, accounts, machine.timings, dict(self.facts)), machine)


def device_machine(
    model: Offloaded, policy: Policy, signals: StepSignals, depth: int = 1, versions: Versions | None = None
) -> Machine:
    """A machine that runs ``policy`` for a model, with slots for its budget; ``depth``: chunks on the link at once.

    Where the policy may leave experts to the host, it has threads for them: hardware.host.workers. ``versions``: the
    experts in the dtypes that the policy wants beside the model's own. UserError where the device has no room, or where
    the policy wants another model, or the host to begin before a gate, or versions that there are not.
    """
    setup = policy.setup
    check_policy(policy, () if versions is None else versions.lower)
    check_device(setup, model)
    capacity, threads = setup.budget - policy.gpu_bytes(), setup.predictor_threads
    if versions is not None and setup.versions:
        items = ItemPool(versions, capacity, setup.chunks, model.backend)
        return Machine(core_of(policy, setup, signals), items, depth=depth, predictor_threads=threads)
    pool, core = Pool(model.store, capacity, setup.chunks, model.backend), Core(policy, setup, signals)
    if core.places is None or setup.host is None:
        return Machine(core, pool, depth=depth, predictor_threads=threads)
    return HostedMachine(core, pool, depth=depth, predictor_threads=threads, workers=setup.host.workers)


def depth_of(hardware: HardwareProfile) -> int:
    """Chunks that a device's link is handed at once; UserError for a link that would copy several at a time."""
    link = hardware.link
    if hardware.gpus > 1:
        raise UserError(f"hardware.gpus={hardware.gpus}: allowed: 1 on a device; several are simulated only")
    if link.lanes > 1:
        raise UserError(f"hardware.link.lanes={link.lanes}: allowed: 1 on a device, which copies on one stream")
    return link.depth


@contextmanager
def running(model: Offloaded, machine: Machine, feed: Feed) -> Iterator[Runner]:
    """Within this block the model's passes go through ``machine``, with the routing of ``feed``. It is used once."""
    facts = stated(machine.core.policy)
    with model.attached(machine, feed) as run, feed.attached():
        yield Runner(run, Engine(model.model, model.backend.device), facts)


def check_policy(policy: Policy, lower: Sequence[str] = ()) -> None:
    """UserError for a policy that wants another model, the host to begin experts before their gate, or experts in other
    dtypes than its model's and those of ``lower``."""
    if policy.modified:
        why = "is of a modified model, whose gates choose a layer ahead, and the device's is not"
        raise UserError(f"policy={policy.name}: {why}; allowed: policies of the model as it is")
    if policy.uses("precompute"):
        why = "has the host begin experts before their gate, which this runtime does not"
        raise UserError(f"policy={policy.name}: {why}; allowed: policies that precompute nothing")
    if (wanted := policy.setup.versions[1:]) != tuple(lower) and wanted:
        why = f"wants experts in {one_of(wanted)} as well, which python -m real quality measures, and no other command"
        raise UserError(f"policy={policy.name}: {why}; allowed: policies of one version")


def check_device(setup: Setup, model: Offloaded) -> None:
    """UserError where the device has no room for the budget beside the dense part."""
    if model.backend.device.type != "cuda":
        return
    free = free_memory(model.backend.device)
    if setup.budget > free:
        raise UserError(f"budget={setup.budget}: {free} bytes are free on {model.backend.device} beside the dense part")


def check_shape(setup: Setup, model: Offloaded, name: str) -> None:
    """UserError unless the model has the layers, experts and bytes that the profile ``name`` prices."""
    moe = model.moe
    for key, has, wants in (
        ("layers of experts", len(moe.layers), setup.n_layers),
        ("experts per layer", moe.n_experts, setup.n_experts),
        ("top-K", moe.top_k, setup.top_k),
        ("bytes per expert", model.store.layout.nbytes, setup.expert_bytes[0]),
        ("bytes per expert of the last layer", model.store.layout.nbytes, setup.expert_bytes[-1]),
    ):
        if has != wants:
            raise UserError(f"the model has {key}: {has}, and model={name} says {wants}")
