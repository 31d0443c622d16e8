"""What ``--help`` prints of ``sim``, ``sim run`` and ``sim config``; the other commands have theirs beside them."""

from __future__ import annotations

from textwrap import fill

HELP = """\
python -m sim COMMAND [KEY=VALUE ...]

What would happen: recorded expert routing is replayed against an offloading
policy, on a simulated machine.

  run      replay a trace: latency, hits, bytes and stalls, beside the bounds
           that no lossless policy can beat
  compare  the policies in a folder of results, over budgets: which is faster,
           by how much, and how sure that is
  report   the same with pictures, as one HTML page that needs no network
  curve    LRU's hit rates at every budget, from one pass
  timeline the timelines of several runs as one, for Perfetto
  check    does a policy keep the contract?
  bench    the engine's own speed and memory, or a policy's
  config   the resolved configuration of a run or of a grid, for a machine
           without Hydra

Add --help to a command for its keys; --version says which release this is.
Exit status: 0 done, 2 a mistake of yours (one line on stderr).

  python -m sim run policy=lru budget=8GB
  python -m sim run --help
  python -m sim compare outputs target='tpot<=30ms'
"""

_RUN_HELP = """\
python -m sim run [KEY=VALUE ...]

  policy=NAME        what decides:{policy}
  budget=SIZE        GPU bytes for experts, all included: 8GB (10^9), 8GiB,
                     1500000000, 50% of all experts, or auto: all that the rest
                     of the model and the KV cache leave
  trace=NAME|DIR     recorded routing: sample, or a folder that python -m traces
                     wrote
  model=NAME|FILE    what the routing is priced as:{model}
  hardware=NAME|FILE the machine:{hardware}

  chunks=N           copy calls per expert (1)
  workload.batch=N   requests that are active at a time (1)
  warmup=N           requests replayed first and not measured (0)
  limit=N            measure only the first N requests
  measure=PART       test, or validation: the train requests of every fifth
                     prompt, from which the policy then does not learn
  seed=N             0: requests in recorded order; another: in another order
  bounds=BOOL        compute the bounds and reference rows as well (true)
  log=BOOL           keep the log of facts, for a replay without a clock (false)
  timeline=BOOL      keep what was when as timeline.json, for Perfetto (false)

  out=DIR            where results go, a folder per run (outputs); a run that is
                     there already is read, and not run again
  format=FORM        table; or json: result.json on stdout (with -m, a document
                     per line)

Keys inside a group: policy.scope=layer, hardware.link.h2d_gb_per_s=50,
model.dtype=fp8.

Many at once, with -m: every combination of the values with commas, each a job
  policy=lru,fmoe budget=2GB,4GB seed=0,1   also chunks, model, policy.distance
                                            and so on; policy=glob(lru*)
  budget=[2GB,4GB,8GB] seed=[0,1,2]         lists: several cells in one job,
                                            which opens the trace once (also
                                            chunks, warmup, limit)
  experiment=NAME                           a preset:{experiment}
  hydra/launcher=NAME                       joblib (all cores), submitit_slurm,
                                            ray; each is an extra:
                                            pip install '.[joblib]'
  hydra.sweeper.n_trials=N                  of experiment=tune_*: Optuna chooses
                                            the values (extra optuna)
A sweep that was stopped goes on with the same command. What failed is listed at
the end.

  python -m sim run policy=gate_ahead budget=4GB hardware=h100 chunks=3
  python -m sim run policy=lru budget=25% trace=my_trace model=gpt_oss_20b
  python -m sim run -m policy=lru,lfu budget=[2GB,4GB] hydra/launcher=joblib
"""

CONFIG_HELP = """\
python -m sim config [-m] [KEY=VALUE ...]

Prints the resolved configuration of a run as YAML; with -m, of every run of a
grid. python -m real run, validate and quality take the file as --config FILE,
on a machine without Hydra. Takes the keys of sim run but out= and format=.

  python -m sim config policy=lru budget=8GB >one.yaml
  python -m sim config -m policy=lru,fmoe budget=4GB,8GB >grid.yaml
"""


def run_help() -> str:
    """The help of ``sim run``, with the names there are."""
    from sim.experiment.compose import choices

    names = {group: _wrap(choices(group)) for group in ("policy", "model", "hardware")}
    return _RUN_HELP.format(**names, experiment=_wrap(choices("experiment"), 44))


def _wrap(words: list[str], column: int = 21) -> str:
    """Names in lines that stand under one another, from a column on."""
    indent = " " * column
    return fill(" ".join(words), width=79, initial_indent=f"\n{indent}", subsequent_indent=indent)
