"""`python -m real calibrate`: the runtime's own overheads, added to a hardware profile."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from real.words import Checkpoint, Weights, prepare, read_profile
from sim.prices import AS_TRACED, HardwareProfile, shipped
from traces.kit.errors import UserError, check_choice
from traces.kit.telling import say
from traces.kit.vocabulary import Device, HostMemory, Threads, new_profile
from traces.kit.words import Between


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measures what the runtime costs beside the device: per layer event, per expert
    launched, per copy. It runs the runtime itself on synthetic routing, which is
    drawn evenly and validates nothing, compares the runs with simulations without
    overheads, and writes the profile with the three figures in it. A result then
    says that the profile holds them.

    {keys}

      python -m real calibrate out=cpu_runtime.yaml hardware=cpu.yaml threads=1
    """

    out: Annotated[Path, new_profile, "the profile, yet to be written"]
    hardware: Annotated[Path, "the profile of the device, as python -m traces calibrate writes it"]
    model: Annotated[str, "of conf/model, or a checkpoint"] = "tiny-moe"
    checkpoint: Checkpoint = ""
    weights: Weights = "auto"
    dtype: Annotated[
        Literal["auto", "bfloat16", "float16", "float32"], "of the experts; auto: the profile's of model="
    ] = "auto"
    device: Device = "auto"
    tokens: Annotated[int, Between(1, 1 << 16), "decode steps of a run"] = 48
    repeat: Annotated[int, Between(1, 1000), "how often each run is made; the one of median time counts"] = 3
    budget: Annotated[str, "of the runs"] = "50%"
    seed: Annotated[int, Between(0, 1 << 31), "of the routing"] = 1
    threads: Annotated[Threads, "of the CPU; 0: torch's choice. As many as the profile was measured with"] = 0
    host_memory: HostMemory = None


def main(options: Options) -> int:
    """Run the command; returns the exit status. UserError for what the user can mend."""
    out = options.out
    hardware = read_profile(options.hardware)
    HardwareProfile.from_dict(hardware)
    profile = model_profile(options.model, options.dtype)
    if options.weights == "random" and profile["dtype"] is None:
        raise UserError("dtype=auto: random weights have none; allowed: bfloat16, float16, float32")
    prepare(options.threads)
    from real.calibrate.overheads import Plan, measured
    from real.runtime.models import Where
    from traces.calibrate.machine import write

    name, dtype = options.checkpoint or options.model, str(profile["dtype"] or "auto")
    model = Where(options.device, options.host_memory).open(name, dtype, options.weights, profile.get("moe_layers"))
    plan = Plan(options.tokens, options.repeat, options.budget, options.seed)
    write(out, measured(model, profile, hardware, out.stem, options.model, options.weights, plan), "real calibrate")
    say(f"wrote {out}")
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
