"""`python -m real peers`: our runtime beside the library, all on the device, and beside accelerate's CPU offload."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from real.run import prepare
from real.words import checkpoint, configuration, divide, host_bytes, model_dtype
from sim.experiment.config import RunConfig
from traces.kit.errors import UserError
from traces.kit.options import check_choice, check_range

if TYPE_CHECKING:
    from real.runtime.offloaded import Offloaded

USAGE = """\
python -m real peers policy=NAME budget=50% [key=value ...]

Decodes one request in one process: with the library's own experts, all on the
device; with accelerate's CPU offload, which copies every layer's weights at
every pass; with our runtime and room for all experts, exact and grouped; and
with our runtime at the budget. Milliseconds per token, medians over decode
passes, and the ratio to the first.

  policy, budget, hardware, chunks and policy.KEY as in python -m sim run
  model, weights, device, threads, host_memory, exact, trace and --config as in
                  python -m real run

  prompt_tokens   of the request, drawn at random  [64]
  new_tokens      decode passes that are timed  [48]
  accelerate_tokens
                  decode passes of accelerate's, which is slow  [4]
  format          table | json  [table]
"""


WARM_UP = 768
"""Tokens that are to bring every expert in, where there is room."""


@dataclass(frozen=True)
class Options:
    """See USAGE."""

    weights: str = "auto"
    device: str = "auto"
    threads: int = 0
    prompt_tokens: int = 64
    new_tokens: int = 48
    accelerate_tokens: int = 4
    format: str = "table"
    config: str = ""
    host_memory: str = ""
    exact: str = "true"

    def check(self) -> None:
        """UserError for a value that is out of range or not known."""
        check_choice("weights", self.weights, ("auto", "random"))
        check_choice("format", self.format, ("table", "json"))
        check_range("prompt_tokens", self.prompt_tokens, 1, 1 << 16)
        check_range("new_tokens", self.new_tokens, 2, 1 << 16)
        check_range("accelerate_tokens", self.accelerate_tokens, 2, 1 << 16)
        check_range("threads", self.threads, 0, 4096)
        host_bytes(self.host_memory)
        check_choice("exact", self.exact, ("true", "false"))


def main(words: Sequence[str]) -> int:
    """Run the command; returns the exit status. UserError for what the user can mend."""
    options, rest = divide(words, Options)
    options.check()
    config = configuration(rest, options.config)
    prepare(options.threads)
    rows = measure(config, options, checkpoint(rest, config))
    for what, why in rows["left_out"].items():
        sys.stderr.write(f"no row for {what}: {why}\n")
    if options.format == "json":
        sys.stdout.write(json.dumps(rows, indent=1, allow_nan=False) + "\n")
        return 0
    base = rows["rows"][0]["ms_per_token"]
    sys.stdout.write(f"{rows['model']} on {rows['device']}, {rows['software']}\n\n{'':42} ms/token  ratio\n")
    for row in rows["rows"]:
        sys.stdout.write(f"{row['name']:42} {row['ms_per_token']:8.3f} {row['ms_per_token'] / base:6.2f}\n")
    return 0


def measure(config: RunConfig, options: Options, name: str) -> dict[str, Any]:
    """All rows, one after the other, on one model. UserError where it does not fit."""
    from real.runtime.models import Where

    where = Where(options.device, host_bytes(options.host_memory), options.exact == "true")
    layers = int(config.model.get("moe_layers", 0)) or None
    model = where.open(name, model_dtype(config), options.weights, layers)
    return beside(
        model,
        config,
        name,
        prompt_tokens=options.prompt_tokens,
        new_tokens=options.new_tokens,
        accelerate_tokens=options.accelerate_tokens,
        host_memory=where.host_memory,
    )


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
    from real.runtime.host import Host
    from real.runtime.library import accelerated, resident
    from traces.models.devices import device_name
    from traces.models.load import recorder_version

    device, prompt, store = model.backend.device, _tokens(model, prompt_tokens, 0), model.store
    about = {"device": device_name(device), "software": recorder_version()}
    found: dict[str, Any] = {"model": name, **about, "prompt_tokens": prompt_tokens, "rows": [], "left_out": {}}

    def library() -> float:
        with resident(model) as whole:
            return _decode(whole, device, prompt, new_tokens)

    def accelerate() -> float:
        host = Host(host_memory)
        host.check(store.nbytes, "the experts, once more,")
        had = list(host.blocks(store.blocks[0].numel(), len(store.blocks)))  # step by step, as it is used: it is there
        del had
        with accelerated(model) as whole:
            return _decode(whole, device, prompt, accelerate_tokens)

    for row, measured in (
        ("library, all on the device", library),
        *ours(model, config, name, prompt, new_tokens),
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


def ours(
    model: Offloaded, config: RunConfig, name: str, prompt: Sequence[int], new_tokens: int
) -> list[tuple[str, Callable[[], float]]]:
    """Our runtime's rows: with room for all experts, each way of computing them, and as configured."""
    from functools import partial

    from real.session import find_history

    history = find_history(config, model.moe, given=False)
    everything, own = replace(config, budget="100%", policy={"name": "lru"}), str(config.policy["name"])
    rows = [
        ("ours, lru at 100%, exact", everything, True),
        ("ours, lru at 100%, grouped", everything, False),
        (f"ours, {own} at {config.budget}", config, model.exact),
    ]
    return [
        (row, partial(_served, model, chosen, name, history, prompt, new_tokens, exact)) for row, chosen, exact in rows
    ]


def _served(
    model: Offloaded, config: RunConfig, name: str, history: Any, prompt: Sequence[int], new_tokens: int, exact: bool
) -> float:
    """Median over decode passes, ms, of one request after one that brings experts in."""
    from real.runtime.generate import Served, run_live
    from real.session import make_live_setup, there
    from sim.experiment.make import policy_of
    from sim.experiment.room import Context
    from sim.prices import HardwareProfile

    both, batch = ((_tokens(model, WARM_UP, 1), 2), (prompt, new_tokens + 1)), int(config.workload["batch"])
    context = Context.of((len(tokens) + n for tokens, n in both), batch)
    setup = make_live_setup(config, model, name, {}, context)
    policy = policy_of(config.policy, setup, there(config, history, {}))
    depth = HardwareProfile.from_dict(config.hardware).link.depth
    requests = [Served(i, list(tokens), lambda logits: int(logits.argmax()), n) for i, (tokens, n) in enumerate(both)]
    with model.computing(exact=exact):
        run, _ = run_live(model, policy, requests, batch=batch, depth=depth)
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
