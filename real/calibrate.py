"""`python -m real calibrate`: the runtime's own overheads, added to a hardware profile."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from real.grid import read_profile
from real.run import prepare
from real.words import host_bytes
from sim.prices import AS_TRACED, HardwareProfile, shipped
from traces.kit.errors import UserError
from traces.kit.options import check_choice, check_range, parse_options

if TYPE_CHECKING:
    from real.overheads import Overheads
    from real.runtime.offloaded import Offloaded

USAGE = """\
python -m real calibrate out=FILE.yaml hardware=PROFILE.yaml [key=value ...]

Measures what the runtime costs beside the device: per layer event, per expert
launched, per copy. It runs the runtime itself on synthetic routing, which is
drawn evenly and validates nothing, compares the runs with simulations without
overheads, and writes the profile with the three figures in it. A result then
says that the profile holds them.

  out         the profile, yet to be written
  hardware    the profile of the device, as python -m traces calibrate writes it
  model       of conf/model, or a checkpoint  [reference]
  checkpoint  its weights, where model= is a name of conf/model that ships none
  weights     auto | random (of model='s shape, without a checkpoint)  [auto]
  dtype       of the experts; auto: the profile's of model=  [auto]
  device      auto | cpu | cuda | cuda:N  [auto]
  tokens      decode steps of a run  [48]
  repeat      how often each run is made; the one of median time counts  [3]
  budget      of the runs  [50%]
  seed        of the routing  [1]
  threads     CPU threads; 0: torch's choice. As many as the profile was
              measured with  [0]
  host_memory what the host has for the model, such as 110GB, where it shows
              less as free  [what is free]

  python -m real calibrate out=cpu_runtime.yaml hardware=cpu.yaml threads=1
"""


@dataclass(frozen=True)
class Options:
    """See USAGE."""

    out: str
    hardware: str
    model: str = "reference"
    checkpoint: str = ""
    weights: str = "auto"
    dtype: str = "auto"
    device: str = "auto"
    tokens: int = 48
    repeat: int = 3
    budget: str = "50%"
    seed: int = 1
    threads: int = 0
    host_memory: str = ""


def main(words: Sequence[str]) -> int:
    """Run the command; returns the exit status. UserError for what the user can mend."""
    options = parse_options(Options, list(words))
    check_choice("weights", options.weights, ("auto", "random"))
    check_choice("dtype", options.dtype, ("auto", "bfloat16", "float16", "float32"))
    check_range("tokens", options.tokens, 1, 1 << 16)
    check_range("repeat", options.repeat, 1, 1000)
    check_range("seed", options.seed, 0, 1 << 31)
    check_range("threads", options.threads, 0, 4096)
    host = host_bytes(options.host_memory)
    out = Path(options.out)
    if out.suffix not in (".yaml", ".yml") or not out.parent.is_dir() or os.path.lexists(out):
        raise UserError(f"out={options.out}; allowed: FILE.yaml, yet to be written, in an existing folder")
    hardware = read_profile(Path(options.hardware))
    HardwareProfile.from_dict(hardware)
    profile = model_profile(options.model, options.dtype)
    if options.weights == "random" and profile["dtype"] is None:
        raise UserError("dtype=auto: random weights have none; allowed: bfloat16, float16, float32")
    prepare(options.threads)
    from real.runtime.models import Where
    from traces.calibrate.profile import write

    name, dtype = options.checkpoint or options.model, str(profile["dtype"] or "auto")
    model = Where(options.device, host).open(name, dtype, options.weights, profile.get("moe_layers"))
    found = add_overheads(model, profile, hardware, out.stem, options)
    write(out, found, "real calibrate")
    _say(f"wrote {out}")
    return 0


def model_profile(model: str, dtype: str) -> dict[str, Any]:
    """The mapping of a name of conf/model, with its experts as `dtype`; of a checkpoint, the choice to price as it is.

    UserError for a dtype in which no kernel here computes.
    """
    try:
        profile = dict(shipped("model", model))
    except UserError:  # a checkpoint
        return {"name": AS_TRACED, "dtype": None if dtype == "auto" else dtype}
    if dtype != "auto":
        profile["dtype"] = dtype
    check_choice("model.dtype", str(profile["dtype"]), ("bfloat16", "float16", "float32"))
    return profile


def add_overheads(
    model: Offloaded, profile: Mapping[str, Any], hardware: Mapping[str, Any], name: str, options: Options
) -> dict[str, Any]:
    """The hardware profile, called `name`, with the overheads of the runtime as it runs `model`."""
    from real import overheads
    from traces.calibrate.machine import now

    plan = overheads.Plan(options.tokens, options.repeat, options.budget, options.seed)
    with tempfile.TemporaryDirectory(prefix="moe-offload-") as folder:
        runs = overheads.samples(model, profile, hardware, options.model, plan, Path(folder), _say)
        found = overheads.fit(runs)
    made = f"{options.model}, weights={options.weights}"
    put = with_overheads(hardware, found, name, made, options.seed, now())
    figures = ("layer_overhead_us", "launch_us", "copy_overhead_us")
    _say(", ".join(f"{key} {put['runtime'][key]:g}" for key in figures))
    return put


def with_overheads(
    hardware: Mapping[str, Any], found: Overheads, name: str, model: str, seed: int, date: str
) -> dict[str, Any]:
    """The hardware profile, called ``name``, with overheads that were found on ``model``: it says whose they are."""
    from real import overheads
    from real.synthetic import UNIFORM

    put = overheads.put_in(hardware, found.layer, found.launch, found.copy)
    put["runtime"] = {
        "date": date,
        "model": model,
        "routing": f"{UNIFORM}, seed {seed}",
        "method": overheads.METHOD,
        "layer_overhead_us": put["software"]["layer_overhead_us"],
        "launch_us": put["gpu"]["launch_us"],
        "copy_overhead_us": put["software"]["copy_overhead_us"],
        "fit": dict(found.fit),
    }
    put["sources"] = dict(put["sources"]) | {"launch_us": "measured: the runtime's own, see runtime"}
    put = {"name": name} | {key: value for key, value in put.items() if key != "name"}
    HardwareProfile.from_dict(put)
    return put


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
