"""`python -m real beside`: this runtime beside the library and accelerate, each in a process of its own."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from traces.kit.errors import UserError
from traces.kit.strict import dump_json
from traces.kit.telling import say
from traces.kit.vocabulary import Device, Format, HostMemory, Threads
from traces.kit.words import Between, folder

if TYPE_CHECKING:
    from real.beside.plan import Plan

FILE = "beside.json"
POLICIES, BUDGETS = "lru_layer,fiddler", "100%,50%,25%"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Has several engines continue the same prompts greedily, each in a process of its
    own: transformers' generate with all weights on the device; the same under
    accelerate's cpu_offload and disk_offload; and this runtime, by policies and
    budgets, some of which have the host compute experts. Tokens per second, whole
    answers and from their first token on, medians over rounds with the least and
    the most; the most memory that each process took, and on a GPU that its tensors
    took there; and whether all chose the same tokens. Writes beside.json.

    On a CPU the device is the host: the budget saves no memory there, and a copy is
    one within it. What it shows is what the runtime's own work costs.

    {keys}

      python -m real beside
      python -m real beside policy=lru,split budget=50% limit=2 out=tried
    """

    out: Annotated[Path, folder, "the folder of beside.json"] = Path("outputs/beside")
    model: Annotated[str, "a checkpoint: tiny-moe, a folder, or a model of the Hugging Face cache"] = "tiny-moe"
    dtype: Annotated[
        Literal["auto", "bfloat16", "float16", "float32"], "of the weights; auto: the checkpoint's, float32 of tiny-moe"
    ] = "auto"
    policy: Annotated[str, "of this runtime's rows: lossless presets of conf/policy, separated by commas"] = POLICIES
    budget: Annotated[str, "of this runtime's rows: 8GB, 50%, separated by commas"] = BUDGETS
    hardware: Annotated[str, "whose prices the policies are told: a name of conf/hardware, or a file"] = "rtx_4090"
    trace: Annotated[str, "of the model, whose train requests a policy learns from: sample, or a folder"] = "sample"
    prompts: Annotated[str, "a file of them, as python -m traces collect takes it; empty: tiny-moe's own"] = ""
    limit: Annotated[int, Between(1, 1 << 16), "only the first so many prompts"] = 4
    prompt_tokens: Annotated[int, Between(1, 1 << 16), "of a prompt at most"] = 128
    new_tokens: Annotated[int, Between(2, 1 << 16), "per prompt, whatever would end a text"] = 32
    repeat: Annotated[int, Between(1, 1000), "rounds over all prompts, after one prompt to warm up"] = 3
    minutes: Annotated[float, Between(0.1, 24 * 60), "about so long; rows that do not fit are left out"] = 3.0
    device: Device = "auto"
    threads: Threads = 0
    host_memory: HostMemory = None
    format: Format = "table"


def main(options: Options) -> int:
    """Run the command; returns the exit status. UserError for what the user can mend."""
    from importlib.util import find_spec

    from real.beside.plan import run
    from real.beside.told import table
    from traces.kit.whole import writable, write_whole

    plan = plan_of(options)
    if None in map(find_spec, ("torch", "transformers")):
        raise UserError("real needs torch and transformers: pip install 'moe-offload-workbench[hf]'")
    new = not options.out.exists()
    with writable(f"out={options.out}"):
        options.out.mkdir(parents=True, exist_ok=True)
    try:
        found = run(plan, 60 * options.minutes, say)
    except BaseException:
        if new:
            with suppress(OSError):
                options.out.rmdir()
        raise
    path = options.out / FILE
    with writable(f"out={options.out}"):
        write_whole(path, dump_json(found))
    sys.stdout.write(dump_json(found) if options.format == "json" else table(found))
    say(f"written to {path}")
    return 0


def plan_of(options: Options) -> Plan:
    """What the words ask for. UserError for a slip in them, before anything is loaded."""
    from policies import registry
    from real.beside.plan import Plan, preset
    from real.words import read_profile
    from sim.experiment.budget import AUTO
    from sim.prices import HardwareProfile, shipped
    from traces.kit import conf
    from traces.kit.errors import check_choice
    from traces.kit.units import parse_bytes

    policies: dict[str, dict[str, Any]] = {}
    for name in options.policy.split(","):
        check_choice("policy", name, sorted(conf.names("policy")))
        policies[name] = preset(name)
        if (output := registry.find(policies[name]["name"], name).output()) != "lossless":
            raise UserError(f"policy={name}: is {output}, and chooses other tokens; allowed: lossless ones")
    budgets = options.budget.split(",")
    for budget in budgets:
        if budget != AUTO:
            parse_bytes(budget, of=1 << 60)
    named = options.hardware in conf.names("hardware") or not options.hardware.endswith((".yaml", ".yml"))
    hardware = dict(shipped("hardware", options.hardware) if named else read_profile(Path(options.hardware)))
    HardwareProfile.from_dict(hardware)
    tiny = options.model == "tiny-moe"
    if tiny:
        priced = dict(shipped("model", options.model))
    else:
        priced = {"name": "as_traced", "dtype": None if options.dtype == "auto" else options.dtype}
    dtype = "float32" if tiny and options.dtype == "auto" else options.dtype
    if tiny:
        priced["dtype"] = dtype
    return Plan(
        ours=tuple((name, budget) for name in policies for budget in budgets),
        policies=policies,
        hardware=hardware,
        priced=priced,
        model=options.model,
        dtype=dtype,
        device=options.device,
        threads=options.threads,
        host_memory=options.host_memory,
        prompts=options.prompts or str(conf.PROMPTS_FILE),
        limit=options.limit,
        prompt_tokens=options.prompt_tokens,
        new_tokens=options.new_tokens,
        repeat=options.repeat,
        history=options.trace,
    )
