"""`python -m real peers`: our runtime beside the library, all on the device, and beside accelerate's CPU offload."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from real.words import Configured, Weights, checkpoint, configuration, model_dtype, prepare
from sim.experiment.config import RunConfig
from traces.kit.errors import UserError
from traces.kit.strict import dump_json
from traces.kit.words import Between

if TYPE_CHECKING:
    from real.runtime.offloaded import Offloaded

WARM_UP = 768
"""Tokens that are to bring every expert in, where there is room."""


@dataclass(frozen=True, kw_only=True)
class Options(Configured):
    """Decodes one request in one process: with the library's own experts, all on the
    device; with accelerate's CPU offload, which copies every layer's weights at
    every pass; with our runtime and room for all experts, exact and grouped; and
    with our runtime at the budget. Milliseconds per token, medians over decode
    passes, and the ratio to the first.

    policy, budget, hardware, chunks and policy.KEY are those of python -m sim run,
    model and trace those of python -m real run.

    {keys}

      python -m real peers policy=lru budget=50%
    """

    weights: Weights = "auto"
    prompt_tokens: Annotated[int, Between(1, 1 << 16), "of the request, drawn at random"] = 64
    new_tokens: Annotated[int, Between(2, 1 << 16), "decode passes that are timed"] = 48
    accelerate_tokens: Annotated[int, Between(2, 1 << 16), "decode passes of accelerate's, which is slow"] = 4


def main(options: Options) -> int:
    """Run the command; returns the exit status. UserError for what the user can mend."""
    rest = options.rest
    config = configuration(rest, options.config)
    prepare(options.threads)
    name, where = checkpoint(rest, config), options.where()
    model = where.open(name, model_dtype(config), options.weights, int(config.model.get("moe_layers", 0)) or None)
    tokens = {key: getattr(options, key) for key in ("prompt_tokens", "new_tokens", "accelerate_tokens")}
    rows = beside(model, config, name, **tokens, host_memory=where.host_memory)
    for what, why in rows["left_out"].items():
        sys.stderr.write(f"no row for {what}: {why}\n")
    if options.format == "json":
        sys.stdout.write(dump_json(rows))
        return 0
    base = rows["rows"][0]["ms_per_token"]
    sys.stdout.write(f"{rows['model']} on {rows['device']}, {rows['software']}\n\n{'':42} ms/token  ratio\n")
    for row in rows["rows"]:
        sys.stdout.write(f"{row['name']:42} {row['ms_per_token']:8.3f} {row['ms_per_token'] / base:6.2f}\n")
    return 0


def beside(
    model: Offloaded,
    config: RunConfig,
    name: str,
    *,
    prompt_tokens: int = Options.prompt_tokens,
    new_tokens: int = Options.new_tokens,
    accelerate_tokens: int = Options.accelerate_tokens,
    host_memory: int | None = None,
    note: Callable[[dict[str, Any]], None] = lambda rows: None,
) -> dict[str, Any]:
    """All rows, of a model that is offloaded already; the library's weights are copied from the store.

    A row that cannot be had is left out; ``left_out`` says why. ``note`` is told after each row of those there are.
    """
    from real.run.session import find_history
    from real.runtime.host import Host
    from real.runtime.offloaded import accelerated, resident
    from traces.models.devices import device_name
    from traces.models.load import recorder_version

    device, prompt, store = model.backend.device, _tokens(model, prompt_tokens, 0), model.store
    about = {"device": device_name(device), "software": recorder_version()}
    found: dict[str, Any] = {"model": name, **about, "prompt_tokens": prompt_tokens, "rows": [], "left_out": {}}

    history = find_history(config, model.moe, given=False)
    everything = replace(config, budget="100%", policy={"name": "lru"})

    def library() -> float:
        with resident(model) as whole:
            return _decode(whole, device, prompt, new_tokens)

    def ours(chosen: RunConfig, exact: bool) -> float:
        with model.computing(exact=exact):
            return _served(model, chosen, name, history, prompt, new_tokens)

    def accelerate() -> float:
        host = Host(host_memory)
        host.check(store.nbytes, "the experts, once more,")
        had = list(host.blocks(store.blocks[0].numel(), len(store.blocks)))  # step by step, as it is used: it is there
        del had
        with accelerated(model) as whole:
            return _decode(whole, device, prompt, accelerate_tokens)

    for row, measured in (
        ("library, all on the device", library),
        ("ours, lru at 100%, exact", partial(ours, everything, True)),
        ("ours, lru at 100%, grouped", partial(ours, everything, False)),
        (f"ours, {config.policy['name']} at {config.budget}", partial(ours, config, model.exact)),
        ("accelerate, CPU offload", accelerate),  # last, as it takes the longest
    ):
        try:
            found["rows"].append({"name": row, "ms_per_token": measured()})
        except UserError as error:
            found["left_out"][row] = str(error)
        note(found)
    if not found["rows"]:
        raise UserError(f"no row can be had: {'; '.join(f'{row}: {why}' for row, why in found['left_out'].items())}")
    return found


def _served(
    model: Offloaded, config: RunConfig, name: str, history: Any, prompt: Sequence[int], new_tokens: int
) -> float:
    """Median over decode passes, ms, of one request after one that brings experts in."""
    from real.run.session import serve
    from real.runtime.generate import Served

    both = ((_tokens(model, WARM_UP, 1), 2), (prompt, new_tokens + 1))
    requests = [Served(i, list(tokens), lambda logits: int(logits.argmax()), n) for i, (tokens, n) in enumerate(both)]
    run, _ = serve(config, model, name, requests, history)
    steps = run.machine.timeline.steps  # (begin, end, number, whether prefill)
    spent = [end - begin for begin, end in zip(steps[::4], steps[1::4], strict=True)][-new_tokens + 1 :]
    return statistics.median(spent) / 1e6


def _tokens(model: Offloaded, n: int, seed: int) -> list[int]:
    import torch

    vocabulary = int(model.model.config.get_text_config().vocab_size)
    drawn: list[int] = torch.randint(vocabulary, (n,), generator=torch.Generator().manual_seed(seed)).tolist()
    return drawn


def _decode(model: Any, device: Any, prompt: list[int], new_tokens: int) -> float:
    """Median over decode passes, ms; the first pass warms up."""
    import torch

    from real.runtime.engine import Engine

    engine, spent = Engine(model, device), []
    with torch.inference_mode():
        token = int(engine.prefill(0, prompt).argmax())
        for _ in range(new_tokens):
            began = time.perf_counter_ns()
            token = int(engine.decode([0], [token])[0].argmax())
            spent.append(time.perf_counter_ns() - began)
    return statistics.median(spent[1:]) / 1e6
