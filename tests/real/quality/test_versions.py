"""Experts in lower dtypes on a device: against the library's own model with fake-quantised weights, byte by byte."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from policies.api import LayerEvent, Routing, Setup
from real.quality.compared import full_outputs
from real.quality.uniform import Uniform
from real.runtime.offloaded import Offloaded
from real.runtime.recorded import run_forced, run_taught
from real.runtime.versions import Packed, Versions
from sim.core.log import replay
from sim.core.several import core_of
from sim.experiment.cell import Cell, make_signals
from tests.real.quality.cases import Scores, cell_of, outputs, plain, record, requests_of
from traces.kit.errors import UserError
from traces.models.packed import FORMATS, fake_quantised

CPU = torch.device("cpu")


class Mixed(Uniform):
    """Odd experts in the lower version, even ones as they are."""

    name = "mixed"

    def route(self, event: LayerEvent) -> Routing:
        demand = [self.setup.item(x, x % 2) for x in event.demand]
        low = sum(n for x, n in zip(event.demand, event.tokens, strict=True) if x % 2)
        return Routing(demand, event.tokens, slots=sum(event.tokens), low_precision=low)


class High(Uniform):
    """No expert in the lower version."""

    name = "high"

    def route(self, event: LayerEvent) -> Routing:
        return Routing(event.demand, event.tokens, slots=sum(event.tokens))


def setup_of(cell: Cell, versions: Versions, budget: int | None = None) -> Setup:
    dtype, size = versions.lower[0], versions.sizes[1]
    setup = replace(cell.setup, others={dtype: (size,) * cell.setup.n_layers}, budget=budget or cell.setup.budget)
    return setup.with_versions([dtype])


def packed(model: Offloaded, dtype: str) -> Packed:
    return Packed(model.store, model.moe.layers[0].experts, dtype, pinned=False)


def quantise(model: Any, dtype: str, which: Any) -> None:
    """Fake-quantise the library's own weights of every second expert, or of all."""
    for module in model.modules():
        if hasattr(module, "is_transposed") and hasattr(module, "down_proj"):
            for name in ("gate_up_proj", "down_proj"):
                weights = getattr(module, name).data
                turned = weights.mT if module.is_transposed else weights
                turned[which] = fake_quantised(turned[which], FORMATS[dtype])


# Weights packed along the wrong side, of another expert, or at another's place; bytes that nobody counted.
@pytest.mark.parametrize("family", ["olmoe", pytest.param("gpt_oss", marks=pytest.mark.ci)])
def test_it_computes_what_the_library_does_with_fake_quantised_weights(family: str, tmp_path: Path) -> None:
    model, trace = record(family, tmp_path)
    cell = cell_of("policy=lru", f"trace={trace}", budget="40%", batch=2)
    requests, expected = requests_of(cell), {}
    original = plain(model, requests)
    for make, which in ((Uniform, slice(None)), (Mixed, slice(1, None, 2))):
        before = {name: p.data.clone() for name, p in model.named_parameters()}
        quantise(model, "int4", which)
        expected[make] = plain(model, requests)
        for name, p in model.named_parameters():
            p.data = before[name]
    offloaded = Offloaded(model, CPU)
    versions = Versions(offloaded.store, [packed(offloaded, "int4")])
    for make, meant in expected.items():
        policy = make(setup_of(cell, versions))
        found, run = outputs(cell, offloaded, policy, versions)
        assert (found - meant).abs().max() < 1e-5 * meant.abs().max()
        assert (found - original).abs().max() > 1e-2 * original.abs().max()
        accounts, pool = run.core.accounts, run.machine.pool
        loaded = [size * own.loads for size, own in zip(versions.sizes, accounts.by_version, strict=True)]
        assert [own.copied_bytes for own in accounts.by_version] == loaded
        assert pool.copied == sum(loaded)
        assert run.core.state.peak == pool.peak <= cell.setup.budget
        again = core_of(make(policy.setup), policy.setup, make_signals(cell, policy))
        assert replay(run.core.log, again) == run.core.digest()
        assert (accounts.by_version[0].tokens == 0) == (make is Uniform)


def test_the_models_own_version_is_the_full_model_to_the_bit_and_fewer_bits_are_worse(tmp_path: Path) -> None:
    model, trace = record("mixtral", tmp_path)
    cell, offloaded = cell_of("policy=lru", f"trace={trace}", budget="50%"), Offloaded(model, CPU)
    kept, divergence = full_outputs(cell, offloaded), []
    for make, dtype in ((High, "int4"), (Uniform, "bfloat16"), (Uniform, "int8"), (Uniform, "int4")):
        versions, scores = Versions(offloaded.store, [packed(offloaded, dtype)]), Scores(cell.trace, kept)
        run_taught(cell, offloaded, make(setup_of(cell, versions)), scores.take, versions)
        divergence.append(scores.figures()["kl_nats"])
    assert divergence[0] == 0 < divergence[1]
    assert divergence == sorted(divergence)
    with pytest.raises(UserError, match="policy=uniform: wants experts in int4 as well, which python -m real quality"):
        run_forced(cell, offloaded, Uniform(setup_of(cell, versions)))
    with pytest.raises(UserError, match=r"dtype=int3: no experts are packed in it here; allowed: bfloat16, .*int8"):
        packed(offloaded, "int3")
