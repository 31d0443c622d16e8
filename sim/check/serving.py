"""Passes that mix prompts and decode rows of several requests, as a server makes them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sim.check.synthetic import Routing, World, draw
from sim.core.accounts import (
    BYTES_DEMANDED,
    BYTES_READY,
    CLASSES,
    COMPLETE,
    DECODE,
    LOOKUPS,
    PREFILL,
    RESIDENT,
    SHARED,
    Accounts,
)
from sim.workload.passes import Pass

CHUNK = 3
"""Rows of a prompt that a pass computes at most."""


@dataclass
class Served(Routing):
    """A routing in other passes: of each request (number, first row, rows, of these of its prompt)."""

    batches: list[list[tuple[int, int, int, int]]] = field(default_factory=list)

    def passes(self) -> list[Pass]:
        return [self._pass(batch) for batch in self.batches]

    def _pass(self, batch: Sequence[tuple[int, int, int, int]]) -> Pass:
        requests, firsts, counts, prompts = zip(*batch, strict=True)
        rows, of_prompts = sum(counts), sum(prompts)
        demand, tokens, theirs = [], [], []
        for layer in range(self.ids.shape[1]):
            count: dict[int, list[int]] = {}
            for _, first, n, prompt in batch:
                for i, chosen in enumerate(self.ids[first : first + n, layer].tolist()):
                    for x in chosen:
                        number = layer * self.n_experts + x
                        all_, some = count.pop(number, (0, 0))
                        count[number] = [all_ + 1, some + (i < prompt)]
            demand.append(list(count))
            tokens.append([all_ for all_, _ in count.values()])
            theirs.append([some for _, some in count.values()])
        parts = list(zip(firsts, counts, strict=True))
        step = Pass(of_prompts > 0, requests, parts, rows, rows, rows, demand, tokens)
        if 0 < of_prompts < rows:
            step.prompt_rows, step.prompt_tokens = prompts, theirs
        return step


def served(seed: int, world: World) -> Served:
    """Three requests that are served together: who has a prompt left has a chunk of it in each pass, the others a row.

    One of them is left out of a pass now and then, and each comes a few passes after the other.
    """
    routing, rng = draw(seed, world.layers, decode=7, prompts=3, world=world), np.random.default_rng(seed)
    firsts = [first for prefill, first, _ in routing.steps if prefill]
    prompts = [rows for prefill, _, rows in routing.steps if prefill]
    ends = [*firsts[1:], len(routing.ids)]
    done, batches, number = list(firsts), list[list[tuple[int, int, int, int]]](), 0
    while done != ends:
        batch = []
        for request, (first, prompt, end) in enumerate(zip(firsts, prompts, ends, strict=True)):
            if done[request] == end or number < 3 * request or rng.random() < 0.1:
                continue
            left = first + prompt - done[request]
            rows = min(CHUNK, left) if left > 0 else 1
            batch.append((request, done[request], rows, rows if left > 0 else 0))
            done[request] += rows
        number += 1
        if batch:
            batches.append(batch)
    return Served(routing.ids, routing.steps, routing.n_experts, routing.signals, world, batches)


def classes(passes: Sequence[Pass]) -> dict[tuple[str, int], int]:
    """Lookups by class and layer, counted from whose rows chose each expert."""
    found: Counter[tuple[str, int]] = Counter()
    for step in passes:
        for layer, tokens in enumerate(step.tokens):
            theirs = step.prompt_tokens[layer] if step.prompt_rows else tokens if step.prefill else [0] * len(tokens)
            for of_all, of_prompts in zip(tokens, theirs, strict=True):
                whose = PREFILL if of_prompts == of_all else SHARED if of_prompts else DECODE
                found[CLASSES[whose], layer] += 1
    return dict(found)


def by_class(accounts: Accounts) -> dict[tuple[str, int], int]:
    """The same, as a run has counted them; AssertionError where some are hits more often than they were looked up."""
    found: dict[tuple[str, int], int] = {}
    for name, of_class in zip(CLASSES, accounts.hits, strict=True):
        for layer, row in enumerate(of_class):
            if not row[COMPLETE] <= row[RESIDENT] <= row[LOOKUPS] or row[BYTES_READY] > row[BYTES_DEMANDED]:
                raise AssertionError(f"more hits than lookups of class {name} in layer {layer}")
            if row[LOOKUPS]:
                found[name, layer] = row[LOOKUPS]
    return found
