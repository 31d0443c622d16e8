"""`python -m traces calibrate`: the command line of the calibrator."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from traces.calibrate.noise import WIDE
from traces.kit.errors import UserError
from traces.kit.options import Ranges, check_choice, check_ranges, parse_options

USAGE = """\
python -m traces calibrate out=FILE.yaml [key=value ...]

Measures copies between host and GPU memory by size, and one layer of a model
with random weights, and writes a hardware profile that python -m sim run takes
as hardware=FILE.yaml, with a plot beside it. On a CPU a copy is a copy within
memory, and the profile says so.

  out           the profile, yet to be written; the plot becomes FILE.png
  model         names, comma-separated: of conf/model, reference, a model's
                folder, or one of the local Hugging Face cache; its
                configuration is enough. Without it only copies are measured
  device        auto | cpu | cuda | cuda:N  [auto]
  seconds       to share among all points. Each takes a least number of samples:
                how long all of it will take is tried out and said before it
                begins  [120]
  largest       MiB of the largest copy  [512]
  max_tokens    of an expert and a dense part; 0: 4096 on a GPU, 256 on a CPU
                [0]
  max_context   of a dense part; 0: 8192 on a GPU, 2048 on a CPU  [0]
  threads       CPU threads; 0: torch's choice  [0]
  dtype         bfloat16 | float16 | float32, of the model's weights  [bfloat16]
"""


@dataclass(frozen=True)
class Options:
    """See USAGE."""

    RANGES: ClassVar[Ranges] = {
        "seconds": (1, 86400),
        "largest": (1, 1 << 14),
        "max_tokens": (0, 1 << 17),
        "max_context": (0, 1 << 20),
        "threads": (0, 4096),
    }

    out: str
    model: str = ""
    device: str = "auto"
    seconds: float = 120.0
    largest: int = 512
    max_tokens: int = 0
    max_context: int = 0
    threads: int = 0
    dtype: str = "bfloat16"


def main(args: list[str]) -> None:
    """Run the command on its arguments; UserError for what the user can mend."""
    if not args or "--help" in args or "-h" in args:
        print(USAGE, end="")
        return
    options = parse_options(Options, args)
    check_ranges(options, Options.RANGES)
    check_choice("dtype", options.dtype, ("bfloat16", "float16", "float32"))
    out = Path(options.out)
    if out.suffix not in (".yaml", ".yml") or not out.parent.is_dir() or os.path.lexists(out):
        raise UserError(f"out={options.out!r}; allowed: FILE.yaml, yet to be written, in an existing folder")
    models = options.model.split(",") if options.model else []
    if len({Path(name).name for name in models}) < len(models) or "" in models:
        raise UserError(f"model={options.model!r}; allowed: names separated by commas, each once")
    run(options, models, out)


def run(options: Options, models: list[str], out: Path) -> None:
    """Measure and write; what takes seconds to import is imported here."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported, or it has no effect
    try:
        import torch

        from traces.calibrate.forecast import Plan
        from traces.calibrate.layers import Grids
        from traces.calibrate.machine import clocks, describe, memory_bytes, now
        from traces.calibrate.profile import assemble, write
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
    _say(f"{machine['device']}: trying each kind of measurement once, to say how long they take")
    plan = Plan(clock, largest, models, options.dtype, grids)
    plan.announce(options.seconds, _say)
    found, curves, sections = plan.measure(options.seconds, _say)
    machine |= clocks("at the end")
    cores = len(os.sched_getaffinity(0))
    profile = assemble(out.stem, date, machine, memory_bytes(device), cores, found, curves, sections, cuda)
    write(out, profile)
    _say(f"wrote {out}")
    _warn(profile["measured"]["noise"])
    _plot(profile, out.with_suffix(".png"))


def _warn(noise: dict[str, Any]) -> None:
    """Which tables are noisy: the profile says so, too, and so does every run that they price."""
    noisy = noise["noisy"] or {}
    if noisy:
        _say(f"warning: noisy, with quartiles more than {100 * WIDE:g} % of the median apart:")
    for name, points in noisy.items():
        _say(f"  {name:<24} {points}, up to {100 * noise['spread'][name]:.0f} %")
    if noisy:
        _say("  The profile says so. Measure again while nothing else runs, or longer (seconds=).")


def _plot(profile: dict[str, Any], path: Path) -> None:
    from traces.calibrate import plot

    try:
        plot.draw(profile, path)
    except ImportError:
        _say("no plot: matplotlib is not installed")
        return
    _say(f"wrote {path}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
