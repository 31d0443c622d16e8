"""``python -m sim run`` and ``config``, and the words of a run's configuration, which other commands take as well."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml

from traces.kit import conf
from traces.kit.errors import UserError
from traces.kit.fields import MAX_INT
from traces.kit.strict import dump_json
from traces.kit.telling import showing
from traces.kit.vocabulary import Format, Out
from traces.kit.words import Flag, Others

KEYS = {
    "policy": "what decides:",
    "budget": "GPU bytes for experts, all included: 8GB (10^9), 8GiB, 1500000000, 50% of all experts, or auto: all that"
    " the rest of the model and the KV cache leave",
    "trace": "recorded routing: sample, or a folder that python -m traces wrote",
    "model": "what the routing is priced as, by its name, a file or its config.json:",
    "hardware": "the machine, by its name or a file:",
    "host": "its memory and CPU, if others than in that profile:",
    "chunks": "copy calls per expert",
    "workload": "closed_loop: workload.batch requests are active at any time; online: requests arrive, and a scheduler"
    " forms passes (its keys: conf/workload/online.yaml)",
    "workload.batch": "requests that are active at a time  [1]",
    "kv": "of workload=online: GPU bytes for the KV cache, such as 4GB; null: for the longest requests that can meet",
    "kv_share": "in the place of kv and budget: what share of the room for both is for the KV cache, such as 20%; the"
    " rest is for experts, with budget=auto",
    "warmup": "requests replayed first and not measured",
    "limit": "measure only the first so many requests",
    "placement": "of experts on several GPUs (hardware.gpus=): hash (index modulo GPUs), round_robin, layers (runs of"
    " layers), shard (a part of each expert on each GPU), replicate (each GPU holds the same)",
    "host_memory": "bytes for experts in host memory, as in budget; others are read from hardware.disk. null: all",
    "host_policy": "what decides who stays there: lru, fifo, lfu, lfu_incache, lfru, random",
    "host_tier": "inclusive, or exclusive: an expert leaves it for the GPU, and is written back on eviction",
    "measure": "test, or validation: the train requests of every fifth prompt, from which the policy then does not"
    " learn",
    "seed": "0: requests in recorded order; another: in another order",
    "bounds": "compute the bounds and reference rows as well (true | false)",
    "log": "keep the log of facts, for a replay without a clock (true | false)",
    "timeline": "keep what was when as timeline.json, for Perfetto (true | false)",
    "scores": "ask the policy before each gate who comes, and keep how right it was on these requests: AUC, log loss"
    " (true | false)",
    "experiment": "a preset, most of them with -m:",
    "hydra/launcher": "with -m: joblib (all cores), submitit_slurm, ray; each is an extra: pip install '.[joblib]'",
    "hydra.sweeper.n_trials": "of experiment=tune_*: Optuna chooses the values (extra optuna)",
}
"""What a configuration is made of, and what of Hydra's own has a use."""
ROOTS = tuple(dict.fromkeys(key.replace("/", ".").partition(".")[0] for key in KEYS))


def page() -> dict[str, str]:
    """What the help says of each key: the names that there are, and what it is by default."""
    from sim.experiment.groups import choices

    plain: dict[str, Any] = yaml.safe_load((conf.FOLDER / "config.yaml").read_text(encoding="utf-8"))
    for group in plain["defaults"]:
        plain |= group if isinstance(group, dict) else {}
    found = {}
    for key, text in KEYS.items():
        value = plain.get(key)
        default = "" if value is None else f"  [{str(value).lower() if isinstance(value, bool) else value}]"
        found[key] = (f"{text} {', '.join(choices(key))}" if text.endswith(":") else text) + default
    return found


@dataclass(frozen=True, kw_only=True)
class Run:
    """Replays a trace under a policy, and prints what came of it.

    {keys}

    Keys inside a group: policy.scope=layer, hardware.link.h2d_gb_per_s=50,
    model.dtype=fp8.

    Many at once, with -m: every combination of the values with commas, each a job
      policy=lru,fmoe budget=2GB,4GB seed=0,1   also chunks, model, policy.distance
                                                and so on; policy=glob(lru*)
      budget=[2GB,4GB,8GB] seed=[0,1,2]         lists: several cells in one job,
                                                which opens the trace once (also
                                                chunks, warmup, limit)
    A sweep that was stopped goes on with the same command. What failed is listed at
    the end.

      python -m sim run policy=gate_ahead budget=4GB hardware=h100 chunks=3
      python -m sim run policy=lru budget=25% trace=my_trace model=gpt_oss_20b
      python -m sim run -m policy=lru,lfu budget=[2GB,4GB] hydra/launcher=joblib
    """

    rest: Annotated[tuple[str, ...], Others(ROOTS, page), ""] = ()
    multirun: Annotated[bool, Flag("-m", "--multirun"), "-m: many at once, see below"] = False
    out: Annotated[
        Out,
        "where results go, a folder per run; a run that is there already is read, and not run again",
    ] = Path("outputs")
    format: Annotated[Format, "json: result.json on stdout; with -m, a document per line"] = "table"


def run(options: Run) -> int:
    """Run one configuration, or a grid; returns the exit status."""
    if options.multirun:
        from sim.experiment.sweep.multirun import multirun

        return multirun(options.rest, options.out, options.format)
    for word in options.rest:
        if word.lstrip("+~").startswith("hydra"):
            raise UserError(f"{word}: Hydra's own keys have a meaning with -m only")
    from sim.experiment.compose import read_config
    from sim.experiment.run import run_config

    config = read_config(options.rest)
    if config.placement != "hash" and config.hardware.get("gpus", 1) == 1:
        sys.stderr.write(f"placement={config.placement}: without effect, as hardware.gpus=1\n")
    with progress_bar() as progress:
        result = run_config(config, options.out, progress)
    report(result.document, options.format)
    sys.stderr.write(f"{'read from' if result.cached else 'written to'} {result.folder}\n")
    return 0


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None] | None]:
    """What a run tells of its progress (row, tokens done, tokens in all); None where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    now = "", 0, 1

    def note(row: str, done: int, total: int) -> None:
        nonlocal now
        now = row, done, total

    def state() -> tuple[float, str]:
        row, done, total = now
        return done / total, f"{row}: {done:,} of {total:,} tokens" if row else ""

    with showing(state, None):
        yield note


def report(document: Any, form: str) -> None:
    """Write a result to stdout, as a table or as the content of ``result.json``."""
    if form == "json":
        sys.stdout.write(dump_json(document))
        return
    from sim.results.table import show
    from traces.kit.telling import stdout_console

    show(document, stdout_console())


@dataclass(frozen=True, kw_only=True)
class Config:
    """Prints the resolved configuration of a run as YAML; with -m, of every run of a
    grid. python -m real run, validate and quality take the file as --config FILE,
    on a machine without Hydra. Takes the keys of python -m sim run, but for out and
    format.

    {keys}

      python -m sim config policy=lru budget=8GB >one.yaml
      python -m sim config -m policy=lru,fmoe budget=4GB,8GB >grid.yaml
    """

    multirun: Annotated[bool, Flag("-m", "--multirun"), "-m: of a grid"] = False
    rest: Annotated[tuple[str, ...], Others(ROOTS), ""] = ()


def config(options: Config) -> None:
    """Print the resolved configuration: a run of it needs no Hydra."""
    from sim.experiment.budget import AUTO, sized
    from sim.experiment.compose import read_config
    from sim.experiment.config import dump_configs
    from sim.experiment.sweep.plan import read_grid

    found = read_grid(options.rest) if options.multirun else [read_config(options.rest)]
    for one in found:
        if one.budget != AUTO:
            sized(one.budget, MAX_INT)  # what all experts take is not known here, but how a size is written
    sys.stdout.write(dump_configs(found))
