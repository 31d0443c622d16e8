"""What a predictor learns from: rows of the train requests of a trace, never one of a test request."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.signals import marks
from traces import PREFILL, Trace
from traces.kit.errors import UserError

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Examples:
    """Inputs [n, F] and the target's distribution over experts [n, E]."""

    x: NDArray[np.float16]
    y: NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Division:
    """Requests to fit on, and those to stop by; ``left_out``: train requests with the prompt of a test request.

    ``prompts``: hashes of the prompts of all that were learned from, sorted; None where no prompt was recorded.
    """

    fitted: tuple[int, ...]
    held: tuple[int, ...]
    left_out: int
    prompts: tuple[str, ...] | None


def divide(trace: Trace, others: Sequence[Trace], seed: int, share: float = 0.1) -> Division:
    """Divide the train requests of ``trace`` nine to one (docs/design.md, rule 2: test requests are not learned from).

    Requests with one prompt stay together, so that none is held out whose twin was learned. Train requests whose
    prompt is that of a test request, here or in one of ``others``, are left out. UserError where too few remain.
    """
    keys = prompt_keys(trace)
    tested = {key for known in (trace, *others) for key in measured_keys(known) if key is not None}
    train = [r.request for r in trace.requests if r.split == "train"]
    if not train:
        raise UserError(f"trace={trace.path}: has no train requests; allowed: one imported or collected with split=0.7")
    kept = [r for r in train if keys[r] is None or keys[r] not in tested]
    groups: dict[str | int, list[int]] = {}
    for request in kept:
        groups.setdefault(keys[request] or request, []).append(request)
    if len(groups) < 2:
        raise UserError(
            f"trace={trace.path}: {len(groups)} train prompts that no test request has; allowed: at least 2, one to"
            " fit on and one to hold out"
        )
    order = np.random.default_rng(seed).permutation(len(groups))
    n_held = max(1, round(share * len(groups)))
    by_place = list(groups.values())
    held = sorted(r for i in order[:n_held] for r in by_place[i])
    fitted = sorted(r for i in order[n_held:] for r in by_place[i])
    known = [key for r in kept if (key := keys[r]) is not None]
    prompts = tuple(sorted(set(known))) if len(known) == len(kept) else None
    return Division(tuple(fitted), tuple(held), len(train) - len(kept), prompts)


def prompt_keys(trace: Trace) -> list[str | None]:
    """A hash of each request's prompt, from its token ids; None where these, or its prefill, were not recorded."""
    keys: list[str | None] = []
    for request in trace.requests:
        steps = trace.steps[trace.steps_of(request.request)]
        prefill = steps[steps["phase"] == PREFILL]
        rows = int(prefill["rows"].sum())
        if trace.token_ids is None or rows != request.prompt_tokens:
            keys.append(None)
            continue
        first = int(prefill["first_row"][0])
        tokens = np.asarray(trace.token_ids[first : first + rows], "<i4").tobytes()
        keys.append(hashlib.sha256(tokens).hexdigest()[:16])
    return keys


def measured_keys(trace: Trace) -> list[str | None]:
    """Those of the test requests; without a split, a run measures every request."""
    split = any(request.split == "train" for request in trace.requests)
    keys = prompt_keys(trace)
    return [keys[r.request] for r in trace.requests if r.split == "test" or not split]


def rows_of(trace: Trace, requests: Sequence[int], most: int, seed: int) -> Rows:
    """Rows of these requests, ascending; of more than ``most``, so many drawn. RuntimeError for a test request."""
    for request in requests:
        if trace.requests[request].split != "train":
            raise RuntimeError(f"request {request} is none to learn from: its split is not train")
    steps = trace.steps
    spans = [steps[trace.steps_of(r)] for r in requests]
    ends = [(int(s["first_row"][0]), int(s["first_row"][-1]) + int(s["rows"][-1])) for s in spans]
    rows = np.concatenate([np.arange(*span, dtype=np.int64) for span in ends])
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
    return rows


def width(trace: Trace, layer: int, source: str) -> int:
    """Numbers that the predictor of ``layer`` is given per token. UserError if the trace has them not."""
    if source == "routing":
        return (layer + 1) * trace.E
    if trace.hidden is None:
        raise UserError(
            f"input=hidden: trace={trace.path} has no hidden states; allowed: one collected with signals=all, or"
            " input=routing, for a predictor on earlier routing"
        )
    return int(trace.hidden.shape[2])


def features(trace: Trace, rows: Rows | slice, layer: int, source: str) -> NDArray[np.float16]:
    """What is known when the gate of ``layer`` has run, [n, F].

    hidden: what enters that gate. routing: the router's scores of layers 0..layer, or where these were not recorded
    1 for each expert chosen.
    """
    if source == "hidden":
        hidden: Any = trace.hidden
        return np.asarray(hidden[rows, layer], np.float16)
    if trace.router_probs is not None:
        said = np.asarray(trace.router_probs[rows, : layer + 1], np.float16)
    else:
        said = marks(np.asarray(trace.expert_ids[rows, : layer + 1]), trace.E)
    return said.reshape(len(said), -1)


def targets(trace: Trace, rows: Rows, layer: int, target: str) -> NDArray[np.float16]:
    """What the gate of ``layer`` said, [n, E], sums of 1: its scores, or equal shares of the experts that it chose."""
    if target == "chosen":
        said = marks(np.asarray(trace.expert_ids[rows, layer]), trace.E).astype(np.float32)
    elif trace.router_probs is None:
        raise UserError(f"target=probs: trace={trace.path} has no router_probs; allowed: target=chosen")
    else:
        said = np.asarray(trace.router_probs[rows, layer], np.float32)
    total = said.sum(axis=1, keepdims=True)
    return (said / np.where(total > 0, total, 1)).astype(np.float16)


def modelled(trace: Trace, source: str, target: str = "chosen") -> dict[str, Any]:
    """What is read of ``trace`` that nobody recorded, by signal, as its manifest has it; {} if all was recorded."""
    read = {"expert_ids", "hidden" if source == "hidden" else "router_probs"}
    read |= {"router_probs"} if target == "probs" else set()
    return {name: dict(about) for name, about in trace.manifest.modelled.items() if name in read}


def seen(trace: Trace, rows: Rows, *layers: int) -> Rows:
    """Those of the rows whose tokens all of these layers saw."""
    for layer in layers:
        rows = rows[np.asarray(trace.expert_ids[rows, layer, 0]) != trace.absent]
    return rows
