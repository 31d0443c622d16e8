"""`python -m traces collect`: the command line of the collector."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from traces.collect.options import check_choice, check_range, parse_options
from traces.errors import UserError, one_of
from traces.format import SIGNALS

USAGE = """\
python -m traces collect model=NAME prompts=FILE out=DIR [key=value ...]

  model               reference, a folder, or a model of the local Hugging Face cache (nothing is downloaded)
  prompts             text, one prompt per line; or .jsonl, {"prompt": ..., and optionally "source", "split",
                      "licence", "max_new_tokens"} per line
  out                 the trace's folder, yet to be made
  decoding            greedy | sampled | teacher_forced (the continuation is the text's own)    [greedy]
  max_new_tokens      per prompt                                                                [64]
  max_prompt_tokens   longer prompts are cut; teacher_forced continues from the cut             [512]
  temperature, seed   of sampled decoding; the seed also draws the splits                       [1.0, 0]
  limit               record the first so many prompts; 0: all                                  [0]
  split               share of the prompts, per source, that are for training                   [0.7]
  signals             default | all | names, comma-separated                                    [default]
  ahead               layers that gate_ahead looks ahead                                        [3]
  dtype, device       auto | bfloat16 | float16 | float32; auto | cpu | cuda | cuda:N           [auto]
  threads             CPU threads; 1 gives the same sums on any machine of a kind, and is best for a small
                      model on a busy one; 0: torch's choice                                    [0]
  licence             of the prompts; by default what the lines of a .jsonl say
  priced_as           a model of conf/model/ of the same layers, experts and top-K
"""

DEFAULT_SIGNALS = frozenset({"expert_weights", "router_probs", "gate_ahead", "embedding", "token_ids"})
RECORDABLE = frozenset(SIGNALS) - {"expert_ids", "router_choice"}


@dataclass(frozen=True)
class Options:
    """See USAGE."""

    model: str
    prompts: str
    out: str
    decoding: str = "greedy"
    max_new_tokens: int = 64
    max_prompt_tokens: int = 512
    temperature: float = 1.0
    seed: int = 0
    limit: int = 0
    split: float = 0.7
    signals: str = "default"
    ahead: int = 3
    dtype: str = "auto"
    device: str = "auto"
    threads: int = 0
    licence: str = ""
    priced_as: str = ""


def signals_of(value: str) -> frozenset[str]:
    """The signals of `signals=`; UserError for an unknown name."""
    if value in ("default", "all"):
        return DEFAULT_SIGNALS if value == "default" else RECORDABLE
    names = frozenset(value.split(","))
    if unknown := names - RECORDABLE:
        allowed = one_of(["default", "all", *sorted(RECORDABLE)])
        raise UserError(f"signals={value!r}: {min(unknown)!r} is not known; allowed: {allowed}")
    return names


def main(args: list[str]) -> None:
    """Run the command on its arguments; UserError for what the user can mend."""
    if args in ([], ["--help"], ["-h"]):
        print(USAGE, end="")
        return
    options = parse_options(Options, args)
    check_choice("decoding", options.decoding, ("greedy", "sampled", "teacher_forced"))
    check_range("max_new_tokens", options.max_new_tokens, 1)
    check_range("max_prompt_tokens", options.max_prompt_tokens, 1)
    check_range("temperature", options.temperature, 1e-3)
    check_range("seed", options.seed, 0)
    check_range("limit", options.limit, 0)
    check_range("split", options.split, 0, 1)
    check_range("ahead", options.ahead, 1)
    check_range("threads", options.threads, 0)
    signals = signals_of(options.signals)
    out = Path(options.out)
    if out.exists():
        raise UserError(f"out={options.out!r} exists already; allowed: a folder yet to be made")
    run(options, signals, out)


def run(options: Options, signals: frozenset[str], out: Path) -> None:
    """Load, record and write; what takes seconds to import is imported here."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported, or it has no effect
    try:
        import torch

        from traces.collect.load import device_of, load
        from traces.collect.prompts import PromptFile
        from traces.collect.record import Decoding, collect
    except ImportError as error:
        need = "pip install 'moe-offload-workbench[hf]'"
        raise UserError(f"collect needs torch and transformers ({error}): {need}") from None
    from traces.manifest import Prompts

    prompts = PromptFile(Path(options.prompts), limit=options.limit, split=options.split, seed=options.seed)
    if prompts.skipped:
        print(f"skipped {prompts.skipped} chats in which no user speaks before the answer", file=sys.stderr)
    about = Prompts(prompts.name, options.licence or "; ".join(prompts.licences) or None)
    decoding = Decoding(
        options.decoding,
        options.max_new_tokens,
        options.max_prompt_tokens,
        options.temperature,
        options.seed,
    )
    if options.threads:
        torch.set_num_threads(options.threads)
    loaded = load(options.model, options.dtype, device_of(options.device))
    path = collect(loaded, list(prompts), out, decoding, signals, options.ahead, about, options.priced_as or None)
    print(f"wrote {path}", file=sys.stderr)
