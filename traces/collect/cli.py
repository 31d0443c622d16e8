"""`python -m traces collect`: the command line of the collector."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from traces.format.layout import SIGNALS
from traces.kit.errors import Interrupted, UserError, one_of
from traces.kit.vocabulary import MOST, Decoded, Threads
from traces.kit.words import Between, printable

DEFAULT_SIGNALS = frozenset({"expert_weights", "router_probs", "gate_ahead", "embedding", "token_ids"})
RECORDABLE = frozenset(SIGNALS) - {"expert_ids", "router_choice"}


def signals_of(value: str) -> frozenset[str]:
    """The signals of `signals=`; UserError for an unknown name."""
    if value in ("default", "all"):
        return DEFAULT_SIGNALS if value == "default" else RECORDABLE
    names = frozenset(value.split(","))
    if unknown := names - RECORDABLE:
        allowed = one_of(["default", "all", *sorted(RECORDABLE)])
        raise UserError(f"signals={value!r}: {min(unknown)!r} is not known; allowed: {allowed}")
    return names


@dataclass(frozen=True, kw_only=True)
class Options(Decoded):
    """Records the routing of a Hugging Face MoE model while it generates. Killed or
    interrupted, the same command goes on where it was; the trace appears when it is
    whole.

    {keys}

    prompts: text, one prompt per line; .jsonl with {"prompt": ..., and optionally
    "source", "split", "licence", "max_new_tokens"} per line; or chats (.jsonl,
    .json, .parquet) with "messages", "conversation" or "conversations", as chat
    data sets are distributed.

      python -m traces collect model=tiny-moe prompts=questions.txt out=recorded
    """

    model: Annotated[
        str,
        "tiny-moe, a folder, or a model of the local Hugging Face cache (nothing is downloaded); what is quantised as"
        " fp8 or mxfp4 is dequantised",
    ]
    prompts: Annotated[Path, "a file of them, see below"]
    out: Annotated[Path, "the trace's folder, yet to be made"]
    decoding: Annotated[
        Literal["greedy", "sampled", "teacher_forced"],
        "teacher_forced: the continuation is the text's own, or a chat's answer",
    ] = "greedy"
    max_new_tokens: Annotated[
        int,
        Between(1, MOST),
        "per prompt, but for those that state their own (trace.json says how many)",
    ] = 64
    max_prompt_tokens: Annotated[
        int, Between(1, MOST), "longer prompts are cut; teacher_forced continues from the cut"
    ] = 512
    seed: Annotated[int, Between(0, MOST), "of sampled decoding and of the splits"] = 0
    samples: Annotated[int, Between(1, MOST), "requests per prompt, one after the other, all in the same split"] = 1
    batch: Annotated[int, Between(1, MOST), "requests served at once; the trace holds them one by one"] = 1
    chat_template: Annotated[
        Literal["auto", "on", "off"], "auto: chats, where the tokenizer has a template; on: plain prompts too"
    ] = "auto"
    turn: Annotated[Literal["first", "last"], "of a chat; first: up to the first answer"] = "first"
    limit: Annotated[int, Between(0, MOST), "record the first so many prompts; 0: all"] = 0
    split: Annotated[float, Between(0, 1), "share of the prompts, per source, that are for training"] = 0.7
    signals: Annotated[str, "default | all | names, comma-separated"] = "default"
    ahead: Annotated[int, Between(1, MOST), "layers that gate_ahead looks ahead"] = 3
    dtype: Annotated[Literal["auto", "bfloat16", "float16", "float32"], "of the weights"] = "auto"
    device: Annotated[str, "auto | cpu | cuda | cuda:N | spread (over GPUs, host memory, and disk under $TMPDIR)"] = (
        "auto"
    )
    max_memory: Annotated[str, "of spread, per device: 0:20GiB,cpu:60GiB"] = ""
    threads: Annotated[
        Threads,
        "of the CPU; 1 gives the same sums on any machine of a kind, and is best for a small model on a busy"
        " one; 0: torch's choice",
    ] = 0
    overhead: Annotated[
        float,
        Between(0, 86400),
        "seconds for which the last batch may be repeated, recorded and by plain generate in turns, to tell what"
        " recording costs; at least once; 0: not at all",
    ] = 10.0
    licence: Annotated[str, printable, "of the prompts; by default what the records say"] = ""
    priced_as: Annotated[str, printable, "a model of conf/model/ of the same layers, experts and top-K"] = ""


def record(options: Options) -> None:
    """Run the command; UserError for what the user can mend."""
    signals = signals_of(options.signals)
    out = options.out
    if os.path.lexists(out):
        raise UserError(f"out={out}: exists already; allowed: a folder yet to be made")
    if not out.parent.is_dir():
        raise UserError(f"out={out}: there is no folder {str(out.parent)!r}; allowed: one that exists")
    try:
        run(options, signals, out)
    except KeyboardInterrupt as stop:
        kept = f"{out} is whole" if out.exists() else "the same command goes on"
        raise Interrupted(f"interrupted: {kept}", getattr(stop, "status", 130)) from None


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
        options.prompts,
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
    wanted = Wanted(signals, options.ahead, options.licence or None, options.priced_as or None, options.overhead)
    collect(loaded, prompts, out, Decoding.of(options), wanted)
