"""`python -m real run`: serve prompts, or a trace's routing, on a device under a policy."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from real.words import checkpoint, configuration, divide, host_bytes
from traces.kit.errors import UserError
from traces.kit.options import check_choice, check_range

USAGE = """\
python -m real run policy=NAME budget=8GB [key=value ...]

Serves prompts on a device, experts in host memory, under the same policy object
as the simulator. Writes a folder: result.json as python -m sim run writes it,
requests.csv, layers.csv, the log of facts, and the trace of what was generated,
which the simulator takes as trace=.

  policy, budget, hardware, chunks, seed, limit, workload.batch and policy.KEY
              as in python -m sim run; hardware= gives the policy its prices,
              and the link its depth

  model       reference, a checkpoint's folder, a model of the Hugging Face
              cache, or a name of conf/model  [reference]
  weights     auto, the checkpoint's | random, of a name of conf/model  [auto]
  model.dtype bfloat16 | float16 | float32  [the profile's]
  prompts     a file as python -m traces collect takes it
              [the reference model's own prompts]
  routing     a trace instead of prompts: its requests, tokens and experts,
              whatever the model's routers say
  trace       whose train requests the policy learns from  [sample]
  predictor   a file of python -m policies fit, for a policy that reads one

  decoding    greedy | sampled  [greedy]
  max_new_tokens, max_prompt_tokens, temperature, top_p
              as in python -m traces collect

  device      auto | cpu | cuda | cuda:N  [auto]
  exact       true: experts are computed one by one, and no bit of the output
              depends on the policy or the budget | false: in the library's
              grouped kernel, where a layer's are all there and torch has a fast
              one (CUDA 9.x and 10.x, bfloat16); on a GPU it rounds otherwise,
              and so does the library's own forward  [true]
  threads     CPU threads; 0: torch's choice  [0]
  host_memory what the host has for the model, such as 110GB, where it shows
              less as free  [what is free]
  timeline    true | false: keep timeline.json, which opens in Perfetto  [false]
  out, format as in python -m sim run  [outputs, table]
  --config    FILE: a resolved configuration, where Hydra is not installed
              (python -m sim config)
"""


@dataclass(frozen=True)
class Options:
    """See USAGE."""

    prompts: str = ""
    routing: str = ""
    weights: str = "auto"
    predictor: str = ""
    decoding: str = "greedy"
    max_new_tokens: int = 64
    max_prompt_tokens: int = 512
    temperature: float = 1.0
    top_p: float = 1.0
    device: str = "auto"
    exact: str = "true"
    threads: int = 0
    timeline: str = "false"
    out: str = "outputs"
    format: str = "table"
    config: str = ""
    host_memory: str = ""

    def check(self) -> None:
        """UserError for a value that is out of range or not known."""
        check_choice("weights", self.weights, ("auto", "random"))
        check_choice("decoding", self.decoding, ("greedy", "sampled"))
        check_choice("exact", self.exact, ("true", "false"))
        check_choice("timeline", self.timeline, ("true", "false"))
        check_choice("format", self.format, ("table", "json"))
        check_range("max_new_tokens", self.max_new_tokens, 1, 1 << 20)
        check_range("max_prompt_tokens", self.max_prompt_tokens, 1, 1 << 20)
        check_range("temperature", self.temperature, 1e-3, 1e3)
        check_range("top_p", self.top_p, 1e-3, 1)
        check_range("threads", self.threads, 0, 4096)
        host_bytes(self.host_memory)
        if self.prompts and self.routing:
            raise UserError(f"routing={self.routing}: instead of prompts=, not beside it")
        if self.routing not in ("", "sample") and not Path(self.routing).is_dir():
            raise UserError(f"routing={self.routing}: no such trace; allowed: sample, or the folder of a trace")
        if self.decoding != "sampled" and (self.temperature, self.top_p) != (1.0, 1.0):
            raise UserError("temperature= and top_p= are for decoding=sampled")


def main(words: Sequence[str]) -> int:
    """Run the command; returns the exit status. UserError for what the user can mend."""
    options, rest = divide(words, Options)
    options.check()
    if options.routing:
        rest = [word for word in rest if not word.startswith("trace=")] + [f"trace={options.routing}"]
    config = replace(configuration(rest, options.config), timeline=options.timeline == "true")
    name = checkpoint(rest, config)
    if options.weights == "random" and not options.routing:
        raise UserError("weights=random: generates nothing worth reading; add routing=TRACE")
    if not (options.prompts or options.routing or name == "reference"):
        raise UserError(f"model={name}: give prompts=FILE, or routing=TRACE")
    prepare(options.threads)
    from real.report import keep, show
    from real.runtime.models import Where
    from real.session import forced, live
    from traces.kit.shipped import PROMPTS_FILE
    from traces.prompts.jobs import Decoding
    from traces.prompts.source import PromptFile

    where = Where(options.device, host_bytes(options.host_memory), options.exact == "true")
    if options.routing:
        session = forced(config, name, where, options.weights)
    else:
        path = Path(options.prompts) if options.prompts else PROMPTS_FILE
        decoding = Decoding(
            options.decoding,
            options.max_new_tokens,
            options.max_prompt_tokens,
            options.temperature,
            options.top_p,
            config.seed,
        )
        prompts = PromptFile(path, limit=config.limit or 0, split=0)
        given = any(word.startswith("trace=") for word in rest)
        session = live(config, name, where, prompts, decoding, predictor=options.predictor, history_given=given)
    document = session.document()
    folder = keep(Path(options.out), session, document, timeline=config.timeline)
    show(document, options.format)
    sys.stderr.write(f"written to {folder}\n")
    return 0


def prepare(threads: int) -> None:
    """Before torch is used: nothing is fetched, threads are set, and a GPU's products give the same bits each time."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS: one workspace, whatever the stream
    try:
        import torch
        import transformers  # noqa: F401 - here, so that its absence is told
    except ImportError as error:
        need = "pip install 'moe-offload-workbench[hf]'"
        raise UserError(f"real needs torch and transformers ({error}): {need}") from None
    # cuDNN's attention plans anew for each length of the KV cache, which takes longer than a pass.
    torch.backends.cuda.enable_cudnn_sdp(False)
    if threads:
        torch.set_num_threads(threads)
