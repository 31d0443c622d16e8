"""HybriMoE run on routings that are written out by hand."""

from dataclasses import replace
from typing import Any

import numpy as np

from policies import registry
from policies.hybrimoe import HybriMoE
from sim.check.laws import Run, run
from sim.check.synthetic import FlatHost, Routing, setup_of
from tests.policies.scripted import SIZE, costs


def routing(ids: list[list[list[int]]], prompt: int = 0, n_experts: int = 8, probs: Any = None) -> Routing:
    """Rows of [layer][choice], the first ``prompt`` of them a prompt; the gates give 1 / K to each choice."""
    chosen = np.array(ids, np.uint8)
    scores = np.zeros((*chosen.shape[:2], n_experts), np.float16)
    np.put_along_axis(scores, chosen.astype(int), np.float16(1 / chosen.shape[2]), axis=2)
    signals = {"expert_ids": chosen, "router_probs": scores if probs is None else np.array(probs, np.float16)}
    passes = [(True, 0, prompt)] * bool(prompt) + [(False, i, 1) for i in range(prompt, len(ids))]
    return Routing(chosen, passes, n_experts, signals)


def go(trace: Routing, slots: int, *, copy: int, host: int, workers: int = 1, chunks: int = 1, **params: Any) -> Run:
    """With so many slots per layer, and the buffer; the GPU takes 100 ns per token, the dense part 10."""
    setup = setup_of(trace, (slots * trace.ids.shape[1] + trace.n_experts) * SIZE, chunks=chunks, costs=costs(copy))
    setup = replace(setup, host=FlatHost(host, None, workers=workers))
    return run(registry.build("hybrimoe", setup, params), trace)


def policy_of(finished: Run) -> HybriMoE:
    assert isinstance(finished.policy, HybriMoE)
    return finished.policy
