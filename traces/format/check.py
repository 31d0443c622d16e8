"""The laws of a trace's content; the writer applies them to each request, the reader to the whole."""

from collections.abc import Sequence

import numpy as np

from traces.format.layout import DECODE, PREFILL, SIGNALS, STEPS_FILE, Array, Request, absent_id
from traces.kit.errors import refusal


def check_steps(requests: Sequence[Request], steps: Array, first_row: int, rows: int) -> None:
    """Refuse steps that do not partition ``rows`` rows from ``first_row`` on among ``requests``, in order.

    Also: context grows by the rows of the previous step, prefill precedes decode, decode steps have one row,
    and decoding starts where the prompt ends.
    """
    if len(steps) == 0 or len(requests) == 0:
        raise refusal(STEPS_FILE, "length", len(steps), "at least one step of at least one request")
    request, phase = steps["request"].astype(np.int64), steps["phase"]
    first, size = steps["first_row"].astype(np.int64), steps["rows"].astype(np.int64)
    context = steps["context"].astype(np.int64)

    def refuse(bad: Array, field: str, allowed: str) -> None:
        if bad.any():
            index = int(np.argmax(bad))
            raise refusal(STEPS_FILE, f"{field} of step {index}", steps[field][index], allowed)

    known = requests[0].request
    refuse(~np.isin(np.diff(request, prepend=known), (0, 1)), "request", "non-decreasing, none left out")
    if request[0] != known or request[-1] != requests[-1].request:
        raise refusal(STEPS_FILE, "requests", f"{request[0]}..{request[-1]}", f"{known}..{requests[-1].request}")
    refuse((phase != PREFILL) & (phase != DECODE), "phase", "0 (prefill), 1 (decode)")
    refuse(size < 1, "rows", "at least 1")
    refuse((phase == DECODE) & (size != 1), "rows", "1 for a decode step")
    ends = first_row + np.cumsum(size)
    refuse(first != ends - size, "first_row", "the end of the previous step's rows")
    if ends[-1] != first_row + rows:
        raise refusal(STEPS_FILE, "rows of all steps", ends[-1] - first_row, f"{rows}, the rows of the arrays")
    same = request[1:] == request[:-1]
    refuse(context < 0, "context", "at least 0")
    grows = np.append(False, same & (context[1:] != context[:-1] + size[:-1]))
    refuse(grows, "context", "the previous step's context plus its rows")
    refuse(np.append(False, same & (phase[1:] < phase[:-1])), "phase", "1: decode is never followed by prefill")
    _check_lengths(requests, request - known, phase, size, context)


def _check_lengths(requests: Sequence[Request], owner: Array, phase: Array, size: Array, context: Array) -> None:
    """Compare the steps with the true token counts of their requests."""
    decode = phase == DECODE
    prompt = np.array([item.prompt_tokens for item in requests])[owner]
    output = np.array([item.output_tokens for item in requests])
    starts = decode & np.append(True, (owner[1:] != owner[:-1]) | ~decode[:-1])
    for bad, what, found, allowed in (
        (starts & (context != prompt), "context of step {}, the first decode step", context, "{}"),
        (~decode & (context + size > prompt), "end of the prefill step {}", context + size, "at most {}"),
    ):
        if bad.any():
            index = int(np.argmax(bad))
            limit = f"{allowed.format(prompt[index])}, the prompt_tokens of request {requests[owner[index]].request}"
            raise refusal(STEPS_FILE, what.format(index), found[index], limit)
    decoded = np.bincount(owner[decode], minlength=len(requests))
    if (decoded > output).any():
        index = int(np.argmax(decoded > output))
        allowed = f"at most {output[index]}, the output_tokens of request {requests[index].request}"
        raise refusal(STEPS_FILE, "decode steps", decoded[index], allowed)


def check_rows(arrays: dict[str, Array], n_experts: int, first_row: int = 0) -> None:
    """Refuse rows whose values break the format; the arrays hold the same rows, ``first_row`` onwards.

    ``expert_ids`` must be among them where ``expert_weights`` is.
    """
    absent = absent_id(n_experts)

    def refuse(name: str, bad: Array, allowed: str) -> None:
        _refuse(name, arrays[name], bad, first_row, allowed)

    for name in ("expert_ids", "gate_ahead"):
        if name in arrays:
            _check_ids(name, arrays[name], n_experts, first_row)
    if (ahead := arrays.get("gate_ahead")) is not None:
        layers, distances = np.indices(ahead.shape[1:3])
        past = layers + distances + 1 >= ahead.shape[1]
        if (ahead[:, past] != absent).any():
            refuse("gate_ahead", past[..., None] & (ahead != absent), "absent past the last layer")
    weights = arrays.get("expert_weights")
    if weights is not None and not _surely_weights(weights, ids := arrays["expert_ids"], absent):
        refuse("expert_weights", ~(np.isfinite(weights) & (weights >= 0)), "finite, at least 0")
        rises = np.zeros(weights.shape, bool)
        rises[..., 1:] = weights[..., 1:] > weights[..., :-1]
        refuse("expert_weights", rises, "descending over the slots of a token")
        stray = (weights != 0) & (ids == absent)
        refuse("expert_weights", stray, "0 where the expert is absent")
    if (probs := arrays.get("router_probs")) is not None and not _surely_at_most_one(probs):
        refuse("router_probs", ~((probs >= 0) & (probs <= 1)), "0 to 1")
    if (choice := arrays.get("router_choice")) is not None:
        refuse("router_choice", np.isnan(choice) | (choice == np.inf), "finite, or -inf where barred")
    for name in ("hidden", "embedding"):
        if name in arrays:
            refuse(name, ~np.isfinite(arrays[name]), "finite")
    if "token_ids" in arrays:
        refuse("token_ids", arrays["token_ids"] < 0, "at least 0")


def check_outputs(file: str, ids: Array, n_experts: int, stride: int, first_row: int = 0) -> None:
    """Refuse rows [n, L, K'] of a predictor's outputs whose values break the format (traces.format.predicted)."""
    name = file.removesuffix(".npy")
    _check_ids(name, ids, n_experts, first_row)
    past = (np.arange(ids.shape[1]) >= ids.shape[1] - stride)[:, None]
    _refuse(name, ids, past & (ids != absent_id(n_experts)), first_row, "absent past the last layer")


def _surely_weights(weights: Array, ids: Array, absent: int) -> bool:
    """Whether weights keep their laws, by bits alone. False: perhaps not, and a look at the values is to tell."""
    bits = _bits(weights)
    if bits is None or bits.size == 0 or bits.max() > _LARGEST or (bits[..., 1:] > bits[..., :-1]).any():
        return False
    return bool(ids.max() != absent) or not ((ids == absent) & (bits != 0)).any()


def _surely_at_most_one(probs: Array) -> bool:
    """The same of shares."""
    bits = _bits(probs)
    return bits is not None and bits.size > 0 and bool(bits.max() <= _ONE)


_ONE, _LARGEST = 0x3C00, 0x7BFF
"""Of float16, 1 and the largest finite number: those from +0 on are ordered as their bits, all others lie above."""


def _bits(values: Array) -> Array | None:
    """Of float16, which numpy compares a hundred times as slowly as whole numbers; None of other types."""
    return values.view("<u2") if values.dtype == np.dtype("<f2") else None


def _check_ids(name: str, ids: Array, n_experts: int, first_row: int) -> None:
    absent = absent_id(n_experts)
    allowed = f"0 to {n_experts - 1}, or {absent} where absent"
    _refuse(name, ids, (ids != absent) & ((ids >= n_experts) | (ids < 0)), first_row, allowed)
    slots = np.ascontiguousarray(np.moveaxis(ids, -1, 0))  # slot by slot: whole arrays are compared, and not rows
    present = slots != absent
    if (present[1:] & ~present[:-1]).any():
        gap = np.zeros(ids.shape, bool)
        gap[..., 1:] = np.moveaxis(present[1:] & ~present[:-1], 0, -1)
        _refuse(name, ids, gap, first_row, f"{absent}: absent entries come last")
    if any(((slots[:slot] == slots[slot]) & present[slot]).any() for slot in range(1, len(slots))):
        twice = np.zeros(ids.shape, bool)
        for slot in range(1, len(slots)):
            twice[..., slot] = ((slots[:slot] == slots[slot]) & present[slot]).any(axis=0)
        _refuse(name, ids, twice, first_row, "an expert at most once per token and layer")


def _refuse(name: str, array: Array, bad: Array, first_row: int, allowed: str) -> None:
    if not bad.any():
        return
    place = [int(axis) for axis in np.unravel_index(int(np.argmax(bad)), bad.shape)]
    value = np.broadcast_to(array, bad.shape)[tuple(place)]
    axes = {"L": "layer", "K": "slot", "E": "expert", "A": "ahead", "D": "column", "D'": "column"}
    where = [f"row {first_row + place[0]}"]
    named = SIGNALS[name.rpartition("/")[2]].axes  # a predictor's expert_ids have the axes of the trace's own
    where += [f"{axes[axis]} {index}" for axis, index in zip(named, place[1:], strict=True)]
    raise refusal(f"{name}.npy", f"value at {', '.join(where)}", value, allowed)
