"""What ``--help`` prints of ``sim``, ``sim run`` and ``sim config``; the other commands have theirs beside them."""

from __future__ import annotations

from textwrap import fill

HELP = """\
python -m sim COMMAND [KEY=VALUE ...]

What would happen: replay recorded expert routing against an offloading policy, on a simulated machine.

  run      replay a trace and print latency, hits, bytes and stalls beside the bounds no policy can beat
  config   print the resolved configuration of such a run (with -m: of a grid), for a machine without Hydra
  compare  policies over budgets in a folder of results: intervals, paired differences, fronts, targets
  report   the same with pictures and the origin of every row, as one HTML page that needs no network
  check    try a policy against the contract, also one of another installed package
  curve    LRU's hit rates at every budget, from one pass
  timeline lay the timelines of several runs one below the other, for Perfetto
  bench    measure the engine's own speed and memory, side by side with a textbook machine

Add --help to a command for its keys; --version says which this is.
Exit status: 0 done, 2 an error that is yours to mend (one line on stderr).

  python -m sim run policy=lru budget=8GB
  python -m sim run --help
  python -m sim compare outputs target='tpot<=30ms'
"""

_RUN_HELP = """\
python -m sim run [KEY=VALUE ...]

  policy=NAME        what decides:{policy}
  budget=SIZE        GPU bytes for experts, all included: 8GB (10^9), 8GiB,
                     1500000000, 50% (of all experts), or auto: all that the
                     rest of the model and the KV cache leave
  trace=NAME|DIR     recorded routing: sample, or a folder written by python -m traces
  model=NAME|FILE    what the routing is priced as:{model}
  hardware=NAME|FILE the machine:{hardware}

  chunks=N           copy calls per expert (1)
  workload.batch=N   requests that are active at a time (1)
  warmup=N           requests replayed first and not measured (0)
  limit=N            measure only the first N requests
  measure=PART       test, or validation: train requests of every fifth prompt, which the policy does not learn from
  seed=N             0: requests as recorded; another: permuted
  bounds=BOOL        compute the bounds and reference rows as well (true)
  log=BOOL           keep the log of facts for a clockless replay (false)
  timeline=BOOL      keep what was when as timeline.json, which opens in Perfetto (false)

  out=DIR            where results go, one folder per run (outputs); a run that is there is read, not run again
  format=FORM        table, or json: the content of result.json on stdout (with -m, one document per line)

Keys inside a group: policy.scope=layer, hardware.link.h2d_gb_per_s=50, model.dtype=fp8.

Many at once, with -m: every combination of the values with commas, each a job of its own
  policy=lru,fmoe budget=2GB,4GB seed=0,1   also chunks, model, policy.distance and so on; policy=glob(lru*)
  budget=[2GB,4GB,8GB] seed=[0,1,2]         lists: several cells in one job, which opens the trace once (also chunks,
                                            warmup, limit)
  experiment=NAME                           a preset:{experiment}
  hydra/launcher=NAME                       joblib (all cores), submitit_slurm, ray: extras, pip install '.[joblib]'
  hydra.sweeper.n_trials=N                  of experiment=tune_*: Optuna chooses the values (extra optuna)
A sweep that was stopped goes on with the same command. What failed is listed at the end.

  python -m sim run -m policy=lru,lfu budget=[2GB,4GB,8GB] seed=0,1,2 hydra/launcher=joblib

  python -m sim run policy=gate_ahead budget=4GB hardware=h100 chunks=3
  python -m sim run policy=lru budget=25% trace=my_trace model=gpt_oss_20b format=json
"""

CONFIG_HELP = """\
python -m sim config [-m] [KEY=VALUE ...]

Prints the resolved configuration of such a run as YAML; with -m, of every run of a grid. python -m real run, validate
and quality take the file as --config FILE, on a machine without Hydra. Takes the keys of sim run but out= and format=.

  python -m sim config policy=lru budget=8GB >one.yaml
  python -m sim config -m policy=lru,fmoe budget=4GB,8GB >grid.yaml
"""


def run_help() -> str:
    """The help of ``sim run``, with the names there are."""
    from sim.compose import choices

    names = {group: _wrap(choices(group)) for group in ("policy", "model", "hardware", "experiment")}
    return _RUN_HELP.format(**names)


def _wrap(words: list[str]) -> str:
    """Names in lines that stand under one another, the first one behind the key."""
    indent = " " * 21
    return fill(" ".join(words), width=76, initial_indent=f"\n{indent}", subsequent_indent=indent)
