"""`python -m real peers`: our runtime beside the library, all on the device, and beside accelerate's CPU offload."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from real.run import prepare
from real.words import checkpoint, configuration, divide, host_bytes, model_dtype
from sim.config import RunConfig
from traces.collect.options import check_choice, check_range
from traces.errors import UserError

USAGE = """\
python -m real peers policy=NAME budget=50% [key=value ...]

Decodes one request in one process: with the library's own experts, all on the device; with accelerate's CPU offload,
which copies every layer's weights at every pass; with our runtime and room for all experts; and with our runtime at the
budget. Milliseconds per token, medians over decode passes, and the ratio to the first.

  policy, budget, hardware, chunks and policy.KEY as in python -m sim run; model, weights, device, threads, host_memory,
  trace and --config as in python -m real run

  prompt_tokens   of the request, drawn at random                                                 [64]
  new_tokens      decode passes that are timed                                                    [48]
  format          table | json                                                                    [table]
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
    format: str = "table"
    config: str = ""
    host_memory: str = ""

    def check(self) -> None:
        """UserError for a value that is out of range or not known."""
        check_choice("weights", self.weights, ("auto", "random"))
        check_choice("format", self.format, ("table", "json"))
        check_range("prompt_tokens", self.prompt_tokens, 1, 1 << 16)
        check_range("new_tokens", self.new_tokens, 2, 1 << 16)
        check_range("threads", self.threads, 0, 4096)
        host_bytes(self.host_memory)


def main(words: Sequence[str]) -> int:
    """Run the command; returns the exit status. UserError for what the user can mend."""
    options, rest = divide(words, Options)
    options.check()
    config = configuration(rest, options.config)
    prepare(options.threads)
    rows = measure(config, options, checkpoint(rest, config))
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
    import torch

    from real.runtime.generate import Served
    from real.runtime.models import open_model
    from real.runtime.offloaded import Offloaded
    from real.session import find_history, make_live_setup, make_policy, serve
    from traces.collect.devices import device_name, device_of
    from traces.collect.record import recorder_version

    device = device_of(options.device)
    host, layers = host_bytes(options.host_memory), int(config.model.get("moe_layers", 0)) or None
    model = open_model(name, model_dtype(config), options.weights, layers, whole=True, host_memory=host)
    vocabulary = int(model.config.get_text_config().vocab_size)
    many = torch.randint(vocabulary, (WARM_UP,), generator=torch.Generator().manual_seed(1)).tolist()
    prompt = torch.randint(vocabulary, (options.prompt_tokens,), generator=torch.Generator().manual_seed(0)).tolist()
    model = _on(model, device)
    rows = [{"name": "library, all on the device", "ms_per_token": _decode(model, device, prompt, options.new_tokens)}]
    offloaded = _accelerated(model.to("cpu"), device)
    if offloaded is not None:
        row = {
            "name": "accelerate, CPU offload",
            "ms_per_token": _decode(offloaded, device, prompt, options.new_tokens),
        }
        rows.append(row)
        _plain(offloaded)
    runtime = Offloaded(model, device, host_memory=host)
    history = find_history(config, runtime.moe, given=False)
    everything = replace(config, budget="100%", policy={"name": "lru"})
    for chosen in (everything, config):
        policy = make_policy(chosen, make_live_setup(chosen, runtime, name, {}), history, {})
        requests = [
            Served(i, tokens, lambda logits: int(logits.argmax()), n)
            for i, (tokens, n) in enumerate(((many, 2), (prompt, options.new_tokens + 1)))
        ]
        machine = serve(chosen, runtime, policy, requests, frozenset()).machine
        steps = machine.timeline.steps  # (begin, end, number, whether prefill)
        spent = [end - begin for begin, end in zip(steps[::4], steps[1::4], strict=True)][-options.new_tokens + 1 :]
        rows.append({"name": f"ours, {policy.name} at {chosen.budget}", "ms_per_token": statistics.median(spent) / 1e6})
    return {"model": name, "device": device_name(device), "software": recorder_version(), "rows": rows}


def _on(model: Any, device: Any) -> Any:
    import torch

    try:
        return model.to(device)
    except torch.cuda.OutOfMemoryError:
        raise UserError(
            f"the model does not fit into {device}; allowed: one that does, as it is to be compared"
        ) from None


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


def _accelerated(model: Any, device: Any) -> Any:
    try:
        from accelerate import cpu_offload
    except ImportError:
        sys.stderr.write("no row for accelerate: it is not installed\n")
        return None
    return cpu_offload(model, execution_device=device)


def _plain(model: Any) -> None:
    from accelerate.hooks import remove_hook_from_submodules

    remove_hook_from_submodules(model)
