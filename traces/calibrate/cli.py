"""`python -m traces calibrate`: the command line of the calibrator."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from traces.calibrate.tables import WIDE
from traces.kit.errors import UserError
from traces.kit.telling import say
from traces.kit.vocabulary import Device, Threads, new_profile
from traces.kit.words import Between


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measures copies between host and GPU memory by size, and one layer of a model
    with random weights: on the device, its experts on the CPU, and these beside
    copies, where each slows the other down. Writes a hardware profile that
    python -m sim run takes as hardware=FILE.yaml, with a plot beside it. On a CPU
    a copy is a copy within memory, and the profile says so.

    {keys}

      python -m traces calibrate out=here.yaml model=olmoe_1b_7b
    """

    out: Annotated[Path, new_profile, "the profile, yet to be written; the plot becomes FILE.png"]
    model: Annotated[
        str,
        "names, comma-separated: of conf/model, tiny-moe, a model's folder, or one of the local Hugging Face cache;"
        " its configuration is enough. Without it only copies are measured",
    ] = ""
    device: Device = "auto"
    seconds: Annotated[
        float,
        Between(1, 86400),
        "to share among all points. Each takes a least number of samples: how long all of it will take is tried out"
        " and said before it begins",
    ] = 120.0
    largest: Annotated[int, Between(1, 1 << 14), "MiB of the largest copy"] = 512
    max_tokens: Annotated[int, Between(0, 1 << 17), "of an expert and a dense part; 0: 4096 on a GPU, 256 on a CPU"] = 0
    max_context: Annotated[int, Between(0, 1 << 20), "of a dense part; 0: 8192 on a GPU, 2048 on a CPU"] = 0
    threads: Threads = 0
    dtype: Annotated[Literal["bfloat16", "float16", "float32"], "of the model's weights"] = "bfloat16"

    @property
    def models(self) -> list[str]:
        return self.model.split(",") if self.model else []

    def __post_init__(self) -> None:
        if len({Path(name).name for name in self.models}) < len(self.models) or "" in self.models:
            raise UserError(f"model={self.model!r}; allowed: names separated by commas, each once")


def calibrate(options: Options) -> None:
    """Measure and write; what takes seconds to import is imported here."""
    out, models = options.out, options.models
    os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported, or it has no effect
    try:
        import torch

        from traces.calibrate.forecast import Plan
        from traces.calibrate.layers import Grids
        from traces.calibrate.machine import assemble, clocks, describe, now, write
        from traces.calibrate.plot import draw
        from traces.calibrate.timing import Clock
        from traces.models.devices import device_of
        from traces.models.shapes import configuration
    except ImportError as error:
        need = "pip install 'moe-offload-workbench[hf]'"
        raise UserError(f"calibrate needs torch and transformers ({error}): {need}") from None
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.backends.cuda.enable_cudnn_sdp(False)  # as in real.run: it plans anew for each length of the KV cache
    device = device_of(options.device)
    for name in models:
        configuration(name)  # refused before minutes are spent
    if device.type == "cuda":
        torch.cuda.set_device(device)
    clock, largest = Clock(device), options.largest << 20
    cuda = clock.cuda
    grids = Grids.up_to(options.max_tokens or (4096 if cuda else 256), options.max_context or (8192 if cuda else 2048))
    date = now()
    machine = describe(device)
    say(f"{machine['device']}: trying each kind of measurement once, to say how long they take")
    plan = Plan(clock, largest, models, options.dtype, grids)
    plan.announce(options.seconds, say)
    found, curves, sections = plan.measure(options.seconds, say)
    machine |= clocks("at the end")
    profile = assemble(out.stem, date, machine, device, found, curves, sections)
    write(out, profile)
    say(f"wrote {out}")
    _warn(profile["measured"]["noise"])
    try:
        draw(profile, picture := out.with_suffix(".png"))
        say(f"wrote {picture}")
    except ImportError:
        say("no plot: matplotlib is not installed")


def _warn(noise: dict[str, Any]) -> None:
    """Which tables are noisy: the profile says so, too, and so does every run that they price."""
    if not noise["noisy"]:
        return
    say(f"warning: noisy, with quartiles more than {100 * WIDE:g} % of the median apart:")
    for name, points in noise["noisy"].items():
        say(f"  {name:<30} {points}, up to {100 * noise['spread'][name]:.0f} %")
    say("  The profile says so. Measure again while nothing else runs, or longer (seconds=).")
