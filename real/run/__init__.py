"""`python -m real run`: serve prompts, or a trace's routing, on a device under a policy."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from real.words import Configured, Weights, checkpoint, configuration, prepare
from traces.kit.errors import UserError
from traces.kit.strict import dump_json
from traces.kit.vocabulary import Decoded, Out
from traces.kit.words import Between


@dataclass(frozen=True, kw_only=True)
class Options(Decoded, Configured):
    """Serves prompts on a device, experts in host memory, under the same policy object
    as the simulator. Writes a folder: result.json as python -m sim run writes it,
    requests.csv, layers.csv, the log of facts, and the trace of what was generated,
    which the simulator takes as trace=.

    policy, budget, hardware, chunks, seed, limit, workload.batch and policy.KEY are
    those of python -m sim run; hardware= gives the policy its prices, the link its
    depth, and the host its workers. model= is tiny-moe (where none is given), a
    checkpoint's folder, a model of the Hugging Face cache, or a name of conf/model;
    model.dtype= bfloat16, float16 or float32. trace= is whose train requests the
    policy learns from (sample).

    {keys}

      python -m real run policy=lru budget=50% limit=1
    """

    prompts: Annotated[str, "a file as python -m traces collect takes it; without it tiny-moe's own prompts"] = ""
    routing: Annotated[
        str, "a trace instead of prompts: its requests, tokens and experts, whatever the model's routers say"
    ] = ""
    weights: Weights = "auto"
    predictor: Annotated[str, "a file of python -m policies fit, for a policy that reads one"] = ""
    decoding: Annotated[Literal["greedy", "sampled"], ""] = "greedy"
    max_new_tokens: Annotated[int, Between(1, 1 << 20), "per prompt, but for those that state their own"] = 64
    max_prompt_tokens: Annotated[int, Between(1, 1 << 20), "longer prompts are cut"] = 512
    timeline: Annotated[bool, "keep timeline.json, which opens in Perfetto"] = False
    out: Out = Path("outputs")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompts and self.routing:
            raise UserError(f"routing={self.routing}: instead of prompts=, not beside it")
        if self.routing not in ("", "sample") and not Path(self.routing).is_dir():
            raise UserError(f"routing={self.routing}: no such trace; allowed: sample, or the folder of a trace")


def main(options: Options) -> int:
    """Run the command; returns the exit status. UserError for what the user can mend."""
    rest = options.rest
    if options.routing:
        rest = (*(word for word in rest if not word.startswith("trace=")), f"trace={options.routing}")
    config = replace(configuration(rest, options.config), timeline=options.timeline)
    name = checkpoint(rest, config)
    if options.weights == "random" and not options.routing:
        raise UserError("weights=random: generates nothing worth reading; add routing=TRACE")
    if not (options.prompts or options.routing or name == "tiny-moe"):
        raise UserError(f"model={name}: give prompts=FILE, or routing=TRACE")
    prepare(options.threads)
    from real.run.session import forced, live
    from traces.kit.conf import PROMPTS_FILE
    from traces.prompts.jobs import Decoding
    from traces.prompts.source import PromptFile

    if options.routing:
        session = forced(config, name, options.where(), options.weights)
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
        history = any(word.startswith("trace=") for word in rest)
        session = live(config, name, options.where(), prompts, decoding, options.predictor, history_given=history)
    document = session.document()
    folder = session.keep(options.out, document)
    try:
        from sim.experiment.words import report

        report(document, options.format)
    except ImportError:  # without rich
        sys.stdout.write(dump_json(document))
    sys.stderr.write(f"written to {folder}\n")
    return 0
