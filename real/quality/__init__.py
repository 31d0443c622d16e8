"""`python -m real quality`: what a lossy policy costs in text quality, measured, beside what the simulator can know."""

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from real.words import Configured, checkpoint, configuration, prepare
from traces.kit.errors import UserError
from traces.kit.strict import dump_json
from traces.kit.vocabulary import MOST, Out
from traces.kit.words import Between


@dataclass(frozen=True, kw_only=True)
class Options(Configured):
    """Runs held-out text through the model under a policy that changes its output,
    teacher-forced, in the same passes as the simulator (prefill, then decode
    steps), and compares every next-token distribution with the full model's:
    perplexity, KL divergence (nats per token), share of tokens whose likeliest next
    one is the same. Beside them what a replay of the recorded routing knows (kept
    gate mass, substituted, skipped, in lower precision: first-order), and the same
    figures of the device's run. Where a policy loads experts in lower dtypes, they
    are packed in them, copied as they are and widened where they are computed.

    policy, hardware, chunks, seed, limit, warmup, workload.batch and policy.KEY are
    those of python -m sim run. model= is tiny-moe (where none is given), a
    checkpoint's folder, or a model of the Hugging Face cache; trace= whose test
    requests are the text: recorded from this model, with token_ids (sample). Beside
    --config, budget= may still be given. With format=json it is one document, or a
    list where there are several budgets.

    {keys}

      python -m real quality policy=swapmoe budget=25%,50% limit=2
    """

    budget: Annotated[
        str, "one size or several, such as 10%,50%,100%: a row for each, beside one run of the full model"
    ] = ""
    prompts: Annotated[
        str,
        "a file of texts instead of a trace, as python -m traces collect takes it: their routing is recorded first;"
        " policies learn from its train split",
    ] = ""
    texts: Annotated[int, Between(0, MOST), "of prompts: the first so many; 0: all"] = 64
    split: Annotated[float, Between(0, 1), "of prompts: the share that is for training, where a text does not say"] = (
        0.7
    )
    max_prompt_tokens: Annotated[
        int, Between(1, MOST), "of prompts: so many tokens are prefilled, what follows is decoded"
    ] = 16
    max_new_tokens: Annotated[
        int, Between(1, MOST), "of prompts: so many are decoded at most, where a text does not say"
    ] = 64
    uniform: Annotated[str, "dtypes such as int8,int4: a row for each, all experts in it, as a yardstick"] = ""
    out: Out = Path("outputs")


def main(options: Options) -> int:
    """Run the command; returns the exit status. UserError for a user's mistake."""
    rest = options.rest
    config = configuration(rest, options.config)
    prepare(options.threads)
    from real.quality.compared import measure
    from sim.results.store import Store
    from traces.prompts.jobs import Decoding
    from traces.prompts.source import PromptFile

    prompts = None
    if options.prompts:
        if config.trace != "sample":
            raise UserError(f"trace={config.trace}: not beside prompts={options.prompts}; allowed: one of them")
        prompts = PromptFile(Path(options.prompts), limit=options.texts, split=options.split, seed=config.seed)
    decoding = Decoding("teacher_forced", options.max_new_tokens, options.max_prompt_tokens)
    budgets, name = options.budget.split(",") if options.budget else [], checkpoint(rest, config)
    store, documents = Store(options.out), []
    uniform = options.uniform.split(",") if options.uniform else []
    for document in measure(config, name, budgets, options.where(), prompts, decoding, uniform):
        documents.append(document)
        # A device's run is not a function of its configuration: the whole document is its address.
        key = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]
        policy, budget = document["policy"]["name"], document["memory"]["budget_bytes"]
        folder = store.folder(f"quality-{policy}-{budget}-{key}")
        store.write_json(folder, "quality.json", document)
        sys.stderr.write(f"written to {folder}\n")
    if options.format == "table":
        try:
            from real.quality.table import show
        except ImportError:  # without rich
            pass
        else:
            show(documents)
            return 0
    sys.stdout.write(dump_json(documents if len(documents) > 1 else documents[0]))
    return 0
