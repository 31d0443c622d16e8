"""``python -m sim plan``: the words, and what is printed."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from traces.kit.errors import UserError, meant, one_of
from traces.kit.strict import dump_json
from traces.kit.telling import say, showing
from traces.kit.vocabulary import MOST, Format, Out, memory, new_picture
from traces.kit.words import Between, Others

SCHEMA = 1
"""Version of the document that ``format=json`` prints."""
SEEDS = 2
"""Of each kind of routing."""
REST = ("host", "chunks", "placement", "model", "hardware")
"""Keys of a run that may be given beside the command's own; of model and hardware, those within."""


def several(value: str) -> tuple[str, ...]:
    """A mark: names, comma-separated, each once."""
    found = tuple(dict.fromkeys(value.split(",")))
    if not all(found):
        raise ValueError("names, comma-separated")
    return found


def known_policies(value: str) -> tuple[str, ...]:
    """A mark: files of conf/policy, or policies of other packages."""
    from sim.experiment.groups import choices

    names, known = several(value), choices("policy")
    for name in names:
        if name not in known:
            raise ValueError(f"{one_of(known)}; not {name}{meant(name, known)}")
    return names


def page() -> dict[str, str]:
    from sim.experiment.words import page as of_run

    return {key: text for key, text in of_run().items() if key in ("host", "chunks", "placement")}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Says whether a model fits on a machine, how fast it would be there under the
    best policy, and which memory a target wants, before anything is downloaded:
    simulated, on routing that is drawn of the model's shape unless trace= has some.

    {keys}

    Keys within model and hardware may be given as well: model.dtype=int4,
    hardware.link.h2d_gb_per_s=12. hardware=here is this machine, as
    python -m traces calibrate out=here.yaml measured it.

      python -m sim plan model=qwen3_30b_a3b target='tpot<=50ms'
      python -m sim plan model=gpt_oss_120b hardware=rtx_4090 host_memory=64GB
      python -m sim plan model=olmoe_1b_7b hardware=rtx_3060,rtx_4080 host=ddr4_2ch
      python -m sim plan model=mixtral_8x7b hardware=rtx_3090_x2 placement=layers
    """

    model: Annotated[str, "a name of conf/model, a profile's file or a config.json; with trace=, what it says"] = ""
    hardware: Annotated[tuple[str, ...], several, "machines, comma-separated: names, files, here"] = ("rtx_4090",)
    target: Annotated[str, "the latency to meet: 'tpot<=50ms', 'ttft_p99<=2s' (in quotes: < is the shell's)"] = ""
    context: Annotated[
        int | None, Between(64, 2**24), "tokens of each request that the KV cache has room for; 4096, or the trace's"
    ] = None
    batch: Annotated[int, Between(1, 256), "requests that are active at a time"] = 1
    host_memory: Annotated[int | None, memory, "what the host has for the experts, as 64GB; else it is enough"] = None
    trace: Annotated[str, "recorded routing of the model: sample, or a folder"] = ""
    policy: Annotated[tuple[str, ...], known_policies, "which are tried, comma-separated; else a shortlist"] = ()
    seed: Annotated[int, Between(0, MOST), "the first of those from which routing is drawn"] = 0
    picture: Annotated[Path | None, new_picture, "draw latency against memory into FILE.svg or .png"] = None
    out: Annotated[Out, "where routing and results are kept; what is there is read"] = Path("outputs")
    format: Annotated[Format, "json: one document on stdout"] = "table"
    rest: Annotated[tuple[str, ...], Others(REST, page), ""] = ()


def main(options: Options) -> None:
    """Run the command."""
    answers = plan(options)
    if options.format == "json":
        sys.stdout.write(dump_json({"schema": SCHEMA, "machines": answers}))
    else:
        from sim.plan.show import show
        from traces.kit.telling import stdout_console

        show(answers, stdout_console())
    if options.picture is not None:
        from sim.plan.draw import draw_file

        say(draw_file(answers, options.picture))


def plan(options: Options, workers: int = 0) -> list[dict[str, Any]]:
    """The answers, one per machine. UserError for what cannot be asked."""
    from sim.plan.answer import SHORTLIST, answer, tried
    from sim.plan.cells import Runner
    from sim.plan.question import ask, lossless, reads
    from sim.plan.routing import draw, kinds, modelled
    from sim.results.compare.target import Target
    from traces import find_trace, open_trace

    if not options.model and not options.trace:
        raise UserError("model=: is missing; allowed: a name of conf/model, a profile's file, a config.json; or trace=")
    goal = Target.parse(options.target) if options.target else None
    trace = open_trace(find_trace(options.trace)) if options.trace else None
    questions = [
        ask(
            name,
            options.model,
            trace,
            goal,
            context=options.context,
            batch=options.batch,
            host_memory=options.host_memory,
            rest=options.rest,
        )
        for name in options.hardware
    ]
    lengths, policies = questions[0].lengths, options.policy or SHORTLIST
    with _telling() as note, Runner(options.out, workers, note) as runner:
        if lengths is None:
            # Seeds are orders of its requests.
            traces = {"given": [options.trace] * (SEEDS + 1)}
        elif not any(it.possible for it in questions):
            traces = {kinds(questions[0].model.name)[0]: [""]}  # nothing is run
        else:
            names, seeds = kinds(questions[0].model.name), range(options.seed, options.seed + SEEDS)
            its = modelled(questions[0].model, questions[0].dtype)
            every = tried(policies)
            exact = frozenset[str]().union(*(reads(name) for name in every if lossless(name)))
            each = [(options.out / "routing", its, kind, seed, lengths, exact) for kind in names for seed in seeds]
            # Lossy policies are tried on the first alone.
            each[0] = (*each[0][:-1], exact.union(*map(reads, every)))
            drawn = [str(folder) for folder in runner.each(draw, each)]
            traces = {kind: drawn[SEEDS * i : SEEDS * (i + 1)] for i, kind in enumerate(names)}
        return [answer(it, policies, traces, runner) for it in questions]


@contextmanager
def _telling() -> Iterator[Any]:
    """Progress on a terminal: the cells of the step that is under way."""
    now = [0, 1]

    def note(done: int, total: int) -> None:
        now[:] = [done, total]

    def state() -> tuple[float, str]:
        return now[0] / now[1], f"{now[0]} of {now[1]} runs of this step" if now[0] else "drawing routing"

    with showing(state, None):
        yield note
