"""`python -m real quality`: what a lossy policy costs in text quality, measured, beside what the simulator can know."""

from __future__ import annotations

import gc
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from policies import registry
from policies.lru import LRU
from real.run import prepare
from real.runtime.models import Where
from real.runtime.offloaded import Offloaded
from real.runtime.recorded import run_taught
from real.scores import Kept, Scores
from real.session import on_device
from real.words import checkpoint, configuration, divide, host_bytes, model_dtype
from sim.experiment.cell import Cell, make_cell
from sim.experiment.config import RunConfig
from sim.experiment.digest import code_digest
from sim.experiment.identity import identify
from sim.experiment.make import make_core, make_policy
from sim.results.document import SCHEMA
from sim.results.quality import quality
from sim.results.store import Store
from traces.collect.record import Wanted, collect
from traces.format.layout import SIGNALS
from traces.kit.errors import UserError
from traces.kit.options import check_choice, check_range
from traces.models.devices import ROOM, device_name, free_memory
from traces.models.load import Loaded, recorder_version
from traces.prompts.jobs import Decoding
from traces.prompts.source import PromptFile

USAGE = """\
python -m real quality policy=NAME budget=SIZE[,SIZE ...] [key=value ...]

Runs held-out text through the model under a policy that changes its output,
teacher-forced, in the same passes as the simulator (prefill, then decode
steps), and compares every next-token distribution with the full model's:
perplexity, KL divergence (nats per token), share of tokens whose likeliest next
one is the same. Beside them what a replay of the recorded routing knows (kept
gate mass, substituted, skipped: first-order), and the same figures of the
device's run.

  policy, hardware, chunks, seed, limit, warmup, workload.batch and policy.KEY
                      as in python -m sim run
  budget              one size or several, such as 10%,50%,100%: a row for each,
                      beside one run of the full model

  model               reference, a checkpoint's folder, or a model of the
                      Hugging Face cache  [reference]
  trace               whose test requests are the text: recorded from this
                      model, with token_ids  [sample]
  prompts             a file of texts instead of a trace, as python -m traces
                      collect takes it: their routing is recorded first;
                      policies learn from its train split
  texts               of prompts: the first so many; 0: all  [64]
  split               of prompts: the share that is for training, where a text
                      does not say  [0.7]
  max_prompt_tokens   of prompts: so many tokens are prefilled, what follows is
                      decoded  [16]
  max_new_tokens      of prompts: so many are decoded at most, where a text does
                      not say  [64]

  device              auto | cpu | cuda | cuda:N  [auto]
  exact               true: experts are computed one by one, so that all that
                      differs is the policy's | false: in the library's grouped
                      kernel where it is fast; on a GPU it rounds otherwise
                      [true]
  threads             CPU threads; 0: torch's choice  [0]
  host_memory         what the host has for the model, such as 110GB where it
                      shows less as free  [what is free]
  out                 where results go, a folder for each budget  [outputs]
  format              table | json: one document, or a list where there are
                      several budgets  [table]
  --config FILE       a resolved configuration instead of the words (needs no
                      Hydra); budget= may still be given
"""


@dataclass(frozen=True)
class Options:
    """See USAGE."""

    budget: str = ""
    prompts: str = ""
    texts: int = 64
    split: float = 0.7
    max_prompt_tokens: int = 16
    max_new_tokens: int = 64
    device: str = "auto"
    exact: str = "true"
    threads: int = 0
    out: str = "outputs"
    format: str = "table"
    config: str = ""
    host_memory: str = ""

    def check(self) -> None:
        """UserError for a value that is out of range or not known."""
        check_choice("format", self.format, ("table", "json"))
        check_choice("exact", self.exact, ("true", "false"))
        check_range("texts", self.texts, 0, 2**31 - 1)
        check_range("split", self.split, 0, 1)
        check_range("threads", self.threads, 0, 4096)
        host_bytes(self.host_memory)
        for key in ("max_prompt_tokens", "max_new_tokens"):
            check_range(key, getattr(self, key), 1, 2**31 - 1)
        if not self.out:
            raise UserError("out=: a folder is wanted")


def main(words: list[str]) -> int:
    """Run the command; returns the exit status. UserError for a user's mistake."""
    if not words or any(word in ("-h", "--help") for word in words):
        sys.stdout.write(USAGE)
        return 0
    options, rest = divide(words, Options)
    options.check()
    config = configuration(rest, options.config)
    prepare(options.threads)
    store = Store(Path(options.out))
    documents = []
    for document in measure(config, options, checkpoint(rest, config)):
        documents.append(document)
        name, budget = document["policy"]["name"], document["memory"]["budget_bytes"]
        folder = store.folder(f"quality-{name}-{budget}-{_key(document)}")
        store.write_json(folder, "quality.json", document)
        sys.stderr.write(f"written to {folder}\n")
    if options.format == "table":
        try:
            from real.quality_table import show
        except ImportError:  # without rich
            pass
        else:
            show(documents)
            return 0
    shown = documents if len(documents) > 1 else documents[0]
    sys.stdout.write(json.dumps(shown, indent=1, allow_nan=False) + "\n")
    return 0


def measure(config: RunConfig, options: Options, name: str) -> Iterator[dict[str, Any]]:
    """The result documents, one for each budget, as they come. ``name``: the checkpoint. UserError for mistakes."""
    where = Where(options.device, host_bytes(options.host_memory), options.exact == "true")
    loaded = where.load(name, model_dtype(config))
    with _text(config, options, loaded) as given:
        budgets = options.budget.split(",") if options.budget else [str(given.budget)]
        cells = [make_cell(replace(given, budget=budget, bounds=False, log=False)) for budget in budgets]
        _check_source(cells[0], loaded)
        for cell in cells:  # a mistake in the last one shows before the first is run
            make_core(cell, make_policy(cell))
        model = where.put(loaded.model)
        cells = [on_device(cell, model) for cell in cells]
        kept = full_outputs(cells[0], model)
        for cell in cells:
            gc.collect()  # the slots of the run before: its core and its policy hold each other
            yield _compared(cell, model, kept, loaded, options)


@contextmanager
def _text(config: RunConfig, options: Options, loaded: Loaded) -> Iterator[RunConfig]:
    """The configuration on the text's trace: the one that is named, or one that is recorded here, and dropped."""
    if not options.prompts:
        yield config
        return
    if config.trace != "sample":
        raise UserError(f"trace={config.trace}: not beside prompts={options.prompts}; allowed: one of them")
    prompts = PromptFile(Path(options.prompts), limit=options.texts, split=options.split, seed=config.seed)
    decoding = Decoding("teacher_forced", options.max_new_tokens, options.max_prompt_tokens)
    signals = registry.find(str(config.policy.get("name"))).signals | {"router_probs", "token_ids"}
    with tempfile.TemporaryDirectory(prefix="moe-offload-") as scratch:
        trace = Path(scratch) / "text"
        collect(loaded, prompts, trace, decoding, Wanted(frozenset(map(str, signals)) & set(SIGNALS), ahead=3))
        yield replace(config, trace=str(trace))


def _check_source(cell: Cell, loaded: Loaded) -> None:
    """UserError unless the trace was recorded from this model: its tokens would be others, and its routing too."""
    manifest = cell.trace.manifest.model
    ours, its = (loaded.name, loaded.revision), (manifest.name, manifest.revision)
    at = 0 if None in (ours[1], its[1]) else 1  # a folder has no revision
    if ours[at] != its[at]:
        raise UserError(
            f"trace={cell.config.trace} was recorded from {its[0]}, and model={loaded.name};"
            " allowed: a trace of this model, or prompts=FILE"
        )


def full_outputs(cell: Cell, model: Offloaded) -> Kept:
    """The full model's outputs: all experts resident, or, where the device has no room for them, the cell's budget."""
    budget = cell.total_expert_bytes
    device = model.backend.device
    if device.type == "cuda" and budget > ROOM * free_memory(device):
        budget = cell.setup.budget
    whole = replace(cell, setup=replace(cell.setup, budget=budget))
    steps = cell.trace.steps
    rows = sum(int(steps["rows"][cell.trace.steps_of(request)].sum()) for request in cell.selection.measured)
    kept = Kept(rows, int(model.model.config.get_text_config().vocab_size))
    run_taught(whole, model, LRU(whole.setup), kept.take)
    return kept


def _compared(cell: Cell, model: Offloaded, kept: Kept, loaded: Loaded, options: Options) -> dict[str, Any]:
    from sim.experiment.run import simulate  # and SimPy

    scores = Scores(cell.trace, kept)
    run = run_taught(cell, model, make_policy(cell), scores.take)
    simulated = simulate(cell, make_policy(cell))
    outcomes = {"simulator": simulated, "device": run.outcome}
    known = {where: quality(outcome.policy, outcome.accounts) for where, outcome in outcomes.items()}
    first_order = {where: shares for where, (shares, _) in known.items()}
    nulls = {
        f"first_order.{where}{key.removeprefix('quality')}": why
        for where, (_, unknown) in known.items()
        for key, why in unknown.items()
    }
    measured = scores.figures()
    for key, figure in _flat(measured):
        if figure is None:
            nulls[f"measured.{key}"] = "there is no such token"
    policy = run.outcome.policy
    return {
        "schema": SCHEMA,
        "kind": "quality",
        "config": identify(cell, policy.predictors()).resolved,
        "provenance": {
            "model": {"name": loaded.name, "revision": loaded.revision, "dtype": str(loaded.model.dtype)[6:]},
            "text": _source(cell, options),
            "device": {
                "name": device_name(model.backend.device),
                "software": recorder_version(),
                "threads": torch.get_num_threads(),
                "experts": model.computes(run.machine.pool),
                **run.machine.pool.facts(),
            },
            "hardware": {"name": cell.hardware.name, "provenance": cell.hardware.provenance},
            "routing": "the model's own on the device; the trace's in the simulator",
            "lossless": policy.lossless,
            "seed": cell.config.seed,
            "code": code_digest(policy.name),
            "code_real": _own_digest(),
            "decision_digest": {"device": run.core.digest(), "simulator": simulated.core.digest()},
        },
        "policy": {"name": policy.name, "facts": dict(run.outcome.decided)},
        "memory": {"budget_bytes": cell.setup.budget, "peak_bytes": run.core.state.peak + run.core.own_bytes},
        "measured": measured,
        "first_order": first_order,
        "nulls": nulls,
    }


def _source(cell: Cell, options: Options) -> dict[str, Any]:
    """What text it is, and where its end is the model's own."""
    manifest = cell.trace.manifest
    return {
        "prompts": manifest.prompts.source,
        "licence": manifest.prompts.licence,
        "decoding": dict(manifest.decoding),
        "trace": None if options.prompts else cell.trace.sha256,
        "requests": len(cell.selection.measured),
        "split": cell.config.measure if cell.selection.train else "all",
        "continuation": "the text's own"
        if manifest.decoding["mode"] == "teacher_forced"
        else "generated by the full model",
    }


def _flat(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in figures.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _own_digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        content = path.read_bytes()
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()[:16]


def _key(document: Mapping[str, Any]) -> str:
    """A device's run is not a function of its configuration: the whole document is its address."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]
