"""From the words of ``traces synthesize`` to what is drawn."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from traces.format.layout import Array
from traces.importers import assign_splits
from traces.importers.arrivals import read_log
from traces.kit.conf import model_sizes, names
from traces.kit.errors import UserError, allowing
from traces.synthesize.changed import shaped, with_entropy, with_overlap
from traces.synthesize.figures import DEFAULT, Figures, read_figures, shipped_figures
from traces.synthesize.fit import reached, resampled_at
from traces.synthesize.signals import least_recall
from traces.synthesize.synthesize import Drawn, Model, Plan
from traces.synthesize.words import MADE, Synthesize


def plan_of(options: Synthesize, model: Model | None = None) -> Plan:
    """What the words ask for; ``model``: in the place of the one that they name. UserError for what cannot be."""
    model = _model(options.model) if model is None else model
    name = options.like or (options.model if options.model in shipped_figures() else DEFAULT)
    figures, said = shaped(read_figures(name), model.layers, model.experts, model.top_k), dict[str, Any]()
    if options.entropy is not None:
        figures, said["entropy"] = with_entropy(figures, options.entropy), options.entropy
    if options.overlap is not None:
        number, times = options.overlap
        wanted = number * figures.top_k / figures.experts if times else number
        figures, said["overlap"] = with_overlap(figures, wanted), wanted
    every = {"together": options.together, "topics": options.topics, "prompt_rows": options.prefill}
    stated: dict[str, Any] = {key: value for key, value in every.items() if value is not None}
    figures, said = replace(figures, **stated), said | stated
    least = least_recall(model.experts, model.top_k)
    own = [max(least, share) for share in figures.gate_recall or ()][: model.layers - 1]
    recall = options.recall or tuple(own)
    signals = MADE if options.signals is None else options.signals
    if "gate_ahead" in signals and not recall:
        if options.signals is not None and model.layers > 1:
            raise UserError(
                f"recall=: the figures {name} have none; allowed: a recall by distance, such as .87,.79,.74"
            )
        if options.signals is not None:
            raise UserError("signals=gate_ahead: the model has one layer of experts, and none ahead; allowed: others")
        signals = tuple(signal for signal in signals if signal != "gate_ahead")
    if options.recall is not None:
        said["recall"] = [*options.recall]
    said |= _missed(options, figures, said)
    return Plan(model, figures, _requests(options, figures), signals, recall, options.seed, said)


def _missed(options: Synthesize, figures: Figures, said: Mapping[str, Any]) -> dict[str, float]:
    """What is drawn where something was stated that the law comes near to, and no nearer; told on stderr."""
    stated = [key for key in ("overlap", "together") if getattr(options, key) is not None]
    if not stated:
        return {}
    drawn = dict(zip(("overlap", "together"), reached(figures, options.seed), strict=True))
    for key in stated:
        if abs(drawn[key] - said[key]) > 0.05 * abs(said[key]):
            print(f"warning: {key}={said[key]:.3g}: what is drawn has {drawn[key]:.3g}", file=sys.stderr)
    return {f"{key}_drawn": round(drawn[key], 4) for key in stated}


def _model(given: str) -> Model:
    """The shape of a name of conf/model, or of a config.json."""
    sizes = model_sizes(given)
    if sizes is not None:
        return Model(given, *sizes, priced_as=given)
    if given.endswith(".json") or Path(given).exists():
        from traces.models.profile import profile_of

        profile = profile_of(Path(given))
        sizes = profile["expert_bytes"][profile["dtype"]]
        shapes = {"hidden": profile["hidden"], "expert_width": profile["expert_width"], "vocab": profile["vocab"]}
        L, E, K = profile["moe_layers"], profile["experts"], profile["top_k"]
        return Model(profile["name"], L, E, K, None, [sizes] * L, shapes, profile["dtype"])
    known = [*sorted(name for name in names("model") if model_sizes(name)), "a config.json"]
    raise UserError(f"model={given}: no such model; {allowing(given, known)}")


def _requests(options: Synthesize, figures: Figures) -> Sequence[Drawn]:
    random = np.random.default_rng([options.seed, 2**20])
    count = options.requests
    # The first token of an output is the prompt's: without rows for prompts, a request of one token has none at all.
    least = 1 if figures.prompt_rows else 2
    if options.output is not None and options.output[0] < least:
        given = "-".join(map(str, sorted({*options.output})))
        raise UserError(f"output={given}: without routing of prompts it is one token less; allowed: {least} or more")
    if options.lengths is not None:
        for key in ("prompt", "output"):
            if getattr(options, key) is not None:
                raise UserError(f"{key}=: the log {options.lengths} has the lengths; allowed: one of the two")
        log = read_log(options.lengths, count, least)
        lengths = [(entry.prompt, entry.output) for entry in log]
        arrivals: list[float | None] = [entry.arrival_s for entry in log]
    else:
        prompts = _lengths(options.prompt, figures.prompt_tokens, count, random)
        outputs = _lengths(options.output, figures.output_tokens, count, random)
        lengths = [(prompt, max(least, output)) for prompt, output in zip(prompts, outputs, strict=True)]
        arrivals = [None] * count
    topics = np.random.default_rng([options.seed, 2**20 + 1]).integers(figures.topics, size=count).tolist()
    split = options.split if 0 < options.split < 1 and count > 1 else None
    splits = assign_splits(count, split, options.seed)
    if split is None and count:
        splits = ["train" if options.split == 1 else "test"] * count
    return [Drawn(p, o, t, s, a) for (p, o), t, s, a in zip(lengths, topics, splits, arrivals, strict=True)]


def _lengths(
    stated: tuple[int, int] | None, quantiles: Sequence[int], count: int, random: np.random.Generator
) -> list[int]:
    places: Array = random.permutation((np.arange(count) + random.random(count)) / count)
    if stated is None:
        return [int(length) for length in resampled_at(quantiles, places)]
    low, high = stated
    found = np.floor(np.exp(np.log(low) + places * np.log((high + 1) / low)))
    return [min(high, int(length)) for length in found]
