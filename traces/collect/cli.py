"""`python -m traces collect`: the command line of the collector."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from traces.format.layout import SIGNALS
from traces.kit.errors import Interrupted, UserError, one_of
from traces.kit.options import Ranges, check_choice, check_ranges, check_text, parse_options

USAGE = """\
python -m traces collect model=NAME prompts=FILE out=DIR [key=value ...]

Records the routing of a Hugging Face MoE model while it generates. Killed or
interrupted, the same command goes on where it was; the trace appears when it is
whole.

  model               reference, a folder, or a model of the local Hugging Face
                      cache (nothing is downloaded); what is quantised as fp8 or
                      mxfp4 is dequantised
  prompts             text, one prompt per line; .jsonl with {"prompt": ..., and
                      optionally "source", "split", "licence", "max_new_tokens"}
                      per line; or chats (.jsonl, .json, .parquet) with
                      "messages", "conversation" or "conversations", as chat
                      data sets are distributed
  out                 the trace's folder, yet to be made

  decoding            greedy | sampled | teacher_forced (the continuation is the
                      text's own, or a chat's answer)  [greedy]
  max_new_tokens      per prompt, but for those that state their own (trace.json
                      says how many)  [64]
  max_prompt_tokens   longer prompts are cut; teacher_forced continues from the
                      cut  [512]
  temperature, top_p  of sampled decoding  [1.0, 1.0]
  seed                of sampled decoding and of the splits  [0]
  samples             requests per prompt, one after the other, all in the same
                      split  [1]
  batch               requests served at once; the trace holds them one by one
                      [1]

  chat_template       auto (chats, where the tokenizer has a template) | on
                      (plain prompts too) | off  [auto]
  turn                of a chat: first (up to the first answer) | last  [first]
  limit               record the first so many prompts; 0: all  [0]
  split               share of the prompts, per source, that are for training
                      [0.7]

  signals             default | all | names, comma-separated  [default]
  ahead               layers that gate_ahead looks ahead  [3]
  dtype               auto | bfloat16 | float16 | float32  [auto]
  device              auto | cpu | cuda | cuda:N | spread (over GPUs, host
                      memory, and disk under $TMPDIR)  [auto]
  max_memory          of spread, per device: 0:20GiB,cpu:60GiB
  threads             CPU threads; 1 gives the same sums on any machine of a
                      kind, and is best for a small model on a busy one; 0:
                      torch's choice  [0]
  overhead            seconds for which the last batch may be repeated, recorded
                      and by plain generate in turns, to tell what recording
                      costs; at least once; 0: not at all  [10]
  licence             of the prompts; by default what the records say
  priced_as           a model of conf/model/ of the same layers, experts and
                      top-K
"""

DEFAULT_SIGNALS = frozenset({"expert_weights", "router_probs", "gate_ahead", "embedding", "token_ids"})
_MOST = 2**31 - 1
"""Steps count in int32."""
RECORDABLE = frozenset(SIGNALS) - {"expert_ids", "router_choice"}


@dataclass(frozen=True)
class Options:
    """See USAGE."""

    RANGES: ClassVar[Ranges] = {
        **dict.fromkeys(("max_new_tokens", "max_prompt_tokens", "samples", "batch", "ahead"), (1, _MOST)),
        **dict.fromkeys(("seed", "limit"), (0, _MOST)),
        "threads": (0, 4096),
        "overhead": (0, 86400),
        "temperature": (1e-3, 1e3),
        "top_p": (1e-3, 1),
        "split": (0, 1),
    }

    model: str
    prompts: str
    out: str
    decoding: str = "greedy"
    max_new_tokens: int = 64
    max_prompt_tokens: int = 512
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    samples: int = 1
    batch: int = 1
    chat_template: str = "auto"
    turn: str = "first"
    limit: int = 0
    split: float = 0.7
    signals: str = "default"
    ahead: int = 3
    dtype: str = "auto"
    device: str = "auto"
    max_memory: str = ""
    threads: int = 0
    overhead: float = 10.0
    licence: str = ""
    priced_as: str = ""

    def check(self) -> None:
        """UserError for a value that is out of range or not known."""
        check_choice("decoding", self.decoding, ("greedy", "sampled", "teacher_forced"))
        check_choice("chat_template", self.chat_template, ("auto", "on", "off"))
        check_choice("turn", self.turn, ("first", "last"))
        check_choice("dtype", self.dtype, ("auto", "bfloat16", "float16", "float32"))
        check_ranges(self, self.RANGES)
        for key in ("licence", "priced_as"):
            check_text(key, getattr(self, key))
        if self.decoding != "sampled":
            for key in ("temperature", "top_p"):
                if getattr(self, key) != 1:
                    raise UserError(f"{key}={getattr(self, key):g} is for decoding=sampled, not {self.decoding}")


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
    if not args or "--help" in args or "-h" in args:
        print(USAGE, end="")
        return
    options = parse_options(Options, args)
    options.check()
    signals = signals_of(options.signals)
    out = Path(options.out)
    if os.path.lexists(out):
        raise UserError(f"out={options.out!r} exists already; allowed: a folder yet to be made")
    if not out.parent.is_dir():
        raise UserError(f"out={options.out!r}: there is no folder {str(out.parent)!r}; allowed: one that exists")
    before = signal.signal(signal.SIGTERM, _terminate)  # a batch system's way to say that time is up
    try:
        run(options, signals, out)
    except KeyboardInterrupt as stop:
        kept = f"{out} is whole" if out.exists() else "the same command goes on"
        raise Interrupted(f"interrupted: {kept}", getattr(stop, "status", 130)) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, _frame: object) -> None:
    raise Interrupted("terminated", 128 + number)


def run(options: Options, signals: frozenset[str], out: Path) -> None:
    """Load, record and write; what takes seconds to import is imported here."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported, or it has no effect
    try:
        import torch

        from traces.collect.record import Wanted, collect
        from traces.models.load import load
        from traces.prompts.jobs import Decoding
        from traces.prompts.source import PromptFile
    except ImportError as error:
        need = "pip install 'moe-offload-workbench[hf]'"
        raise UserError(f"collect needs torch and transformers ({error}): {need}") from None

    prompts = PromptFile(
        Path(options.prompts),
        limit=options.limit,
        split=options.split,
        seed=options.seed,
        samples=options.samples,
        turn=options.turn,
    )
    if prompts.skipped:
        print(f"skipped {prompts.skipped} chats in which no user speaks before the answer", file=sys.stderr)
    if own := prompts.stating_length:
        print(f"max_new_tokens={options.max_new_tokens}: not for {own} prompts, which state their own", file=sys.stderr)
    if options.threads:
        torch.set_num_threads(options.threads)
    loaded = load(options.model, options.dtype, options.device, options.max_memory)
    decoding = Decoding(
        mode=options.decoding,
        max_new_tokens=options.max_new_tokens,
        max_prompt_tokens=options.max_prompt_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.seed,
        chat_template=options.chat_template,
        batch=options.batch,
    )
    wanted = Wanted(signals, options.ahead, options.licence or None, options.priced_as or None, options.overhead)
    collect(loaded, prompts, out, decoding, wanted)
