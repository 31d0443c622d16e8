"""`python -m real run`: serve prompts, or a trace's routing, on a device under a policy."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from real.run.words import Generation
from real.words import Configured, Weights, checkpoint, configuration, model_dtype, prepare
from sim.experiment.config import RunConfig
from traces.kit.errors import Interrupted, UserError
from traces.kit.strict import dump_json
from traces.kit.telling import say
from traces.kit.vocabulary import Out

if TYPE_CHECKING:
    from real.run.folder import Session


@dataclass(frozen=True, kw_only=True)
class Options(Generation, Configured):
    """Serves prompts on a device, experts in host memory, under the same policy object
    as the simulator. Answers are written to stdout as they come, then the result;
    with format=json the result alone. Writes a folder: result.json as python -m sim
    run writes it, requests.csv, layers.csv, texts.jsonl, the log of facts, and the
    trace of what was generated, which the simulator takes as trace=. Ctrl-C ends it
    after the pass under way, and the folder has what there is.

    policy, budget, hardware, chunks, seed, limit, workload.batch and policy.KEY are
    those of python -m sim run; hardware= gives the policy its prices, the link its
    depth, and the host its workers. model= is tiny-moe (where none is given), a
    checkpoint's folder, a model of the Hugging Face cache, or a name of conf/model;
    model.dtype= bfloat16, float16 or float32. trace= is whose train requests the
    policy learns from (sample).

    {keys}

      python -m real run policy=lru budget=50% prompt="The firewall decides"
      python -m real run policy=fmoe budget=50% limit=1 decoding=sampled top_p=.9
    """

    prompt: Annotated[str, "a text to continue"] = ""
    prompts: Annotated[
        str, "a file of them, as python -m traces collect takes it; without either tiny-moe's own prompts"
    ] = ""
    routing: Annotated[
        str, "a trace instead of prompts: its requests, tokens and experts, whatever the model's routers say"
    ] = ""
    weights: Weights = "auto"
    predictor: Annotated[str, "a file of python -m policies fit, for a policy that reads one"] = ""
    timeline: Annotated[bool, "keep timeline.json, which opens in Perfetto"] = False
    out: Out = Path("outputs")

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [f"{key}={getattr(self, key)[:40]}" for key in ("routing", "prompt", "prompts") if getattr(self, key)]
        if len(given) > 1:
            raise UserError(f"{given[0]}: instead of {given[1].partition('=')[0]}=, not beside it")
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
    if not (options.prompt or options.prompts or options.routing or name == "tiny-moe"):
        raise UserError(f"model={name}: give prompt=TEXT, prompts=FILE, or routing=TRACE")
    prepare(options.threads)
    from real.run.session import forced

    if options.routing:
        written(forced(config, name, options.where(), options.weights), options)
        return 0
    served(options, config, name)
    return 0


def served(options: Options, config: RunConfig, name: str) -> None:
    """Continue prompts: answers as they come, then the result. An end from outside is one that leaves what there is."""
    from real.run.asked import Asked
    from real.run.serving import Model, Serving
    from real.run.shown import Line, Page, stoppable
    from real.run.stream import Stream
    from traces.kit.conf import PROMPTS_FILE

    if options.prompt:
        asked = Asked.of_texts([options.prompt], "prompt")
    else:
        asked = Asked.of_file(Path(options.prompts) if options.prompts else PROMPTS_FILE, config.limit or 0)
    model = Model.open(name, model_dtype(config), options.where())
    history = any(word.startswith("trace=") for word in options.rest)
    serving = Serving(config, model, asked, options, options.predictor, permuted=True, history_given=history)
    page = Page(None if options.format == "json" else sys.stdout, serving.titles(), serving.places)
    for note in serving.notes:
        say(note)
    line, unread = Line(), None
    with Stream(serving) as stream, stoppable(stream) as stopped:
        try:
            for token in stream:
                page.add(token)
                line.note(stream, token)
            page.end(stream)
        except BrokenPipeError as error:  # nobody reads any more
            unread = error
            stream.close()
        line.end(stream)
    if not serving.begun:
        raise unread or Interrupted("interrupted; no pass had ended, and nothing was written", stopped.status)
    folder = written(stream.session(), options, quiet=serving.interrupted or unread is not None)
    if unread is not None:
        raise unread
    if serving.interrupted:
        raise Interrupted(f"interrupted: {folder} has what there is", stopped.status)


def written(session: "Session", options: Options, quiet: bool = False) -> Path:
    """Write a run's folder, and its result to stdout unless it is to be ``quiet``; returns the folder."""
    document = session.document()
    folder = session.keep(options.out, document)
    if not quiet:
        try:
            from sim.experiment.words import report

            report(document, options.format)
        except ImportError:  # without rich
            sys.stdout.write(dump_json(document))
    sys.stderr.write(f"written to {folder}\n")
    return folder
