"""What docs/fmoe_testbed.md says, from the numbers beside it (docs/fmoe_testbed.py)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import comb

import pandas as pd

MODELS = {"mixtral_8x7b": "Mixtral-8x7B", "qwen1_5_moe_a2_7b": "Qwen1.5-MoE", "phi_3_5_moe": "Phi-3.5-MoE"}
EXPERTS = {"mixtral_8x7b": (8, 2), "qwen1_5_moe_a2_7b": (60, 4), "phi_3_5_moe": (16, 2)}
"""In a layer, and of these a token's."""
DEEPSPEED, MIXTRAL, PROMOE, INFINITY = OTHERS = (
    "deepspeed",
    "mixtral_offloading_as_in_finemoe",
    "promoe_as_in_finemoe",
    "moe_infinity_as_in_finemoe",
)
TITLES = {
    "fmoe": "fMoE",
    DEEPSPEED: "DeepSpeed",
    MIXTRAL: "Mixtral-Offloading",
    PROMOE: "ProMoE",
    INFINITY: "MoE-Infinity",
}
NAMES = [TITLES[name] for name in OTHERS]
ALL_THERE = ("mixtral_8x7b", "96GB")
"""The cell in which nothing is offloaded once the caches are warm."""
LEAST = "6GB"
PRINTED = (
    ("TTFT", "ttft_ms", (-74, -67, -56, -53)),
    ("TPOT", "tpot_ms", (-46, -38, -27, -22)),
    ("TPOT, 6 GB", "tpot_ms", (-36, -25, -16, -29)),
    ("hit rate", "complete", (0, 14, 37, 68)),
)
"""arXiv 2502.05370: by how many percent fMoE is above each of OTHERS; 0: not printed."""
PIXELS = (0.25, 0.98, 0.49, 0.35, 0.23)
"""TPOT of Mixtral-8x7B on one A100 in s, as an audit (moe-speed-of-light) read it off a figure: fMoE, then OTHERS."""
AXES = {"mixtral_8x7b": "2 to 6", "qwen1_5_moe_a2_7b": "1 to 3", "phi_3_5_moe": "1 to 4"}
"""Of its figure 12: TPOT in s, by cache."""
FREETOKEN = (15.63, 18.00)
"""Tokens/s with two GPUs that copy the same, and with one (its no. 62)."""
_MAPS = (
    "The maps of fMoE find {recall} of the experts (Mixtral's and Phi's as chance would), as drawn prompts hardly"
    " resemble each other. The stand-in knows less than a nearer gate, and has more time: it is ahead, by less than is"
    " printed"
)
CAUSES = {
    ("TTFT", DEEPSPEED, "cannot be said"): (
        "a prompt of 40 tokens wants nearly all experts of Mixtral and of Phi, so that fMoE copies whole layers, too;"
        " of Qwen's 60 it does not, and there fMoE gains half of what is printed and more"
    ),
    ("TTFT", MIXTRAL, "refuted"): (
        "the next layer's gate names nine tenths and more of what a prompt wants there, all at once; three layers"
        " ahead, or by maps, less of it is known"
    ),
    ("TTFT", PROMOE, "cannot be said"): _MAPS,
    ("TTFT", INFINITY, "cannot be said"): "both know little of a prompt, and copy what it wants on demand",
    ("TPOT", DEEPSPEED, "reproduced"): "it copies whole layers, in a cyclic scan, of which LRU keeps nothing in time",
    ("TPOT", MIXTRAL, "cannot be said"): _MAPS,
    ("TPOT", PROMOE, "cannot be said"): _MAPS,
    ("TPOT", INFINITY, "reproduced"): (
        "it prefetches a quarter of each of six layers, and the next prefetch evicts that before it is used: its"
        " links are busy in vain"
    ),
    ("hit rate", MIXTRAL, "cannot be said"): (
        "most of its prefetches are on their way when their gate runs. Where a copy that has begun is a hit"
        " (`resident`), it is far ahead of fMoE, so all hangs on what is called one"
    ),
    ("hit rate", PROMOE, "cannot be said"): _MAPS,
    ("hit rate", INFINITY, "reproduced"): (
        "it prefetches a quarter of each of six layers, and the next prefetch evicts that before it is used: its"
        " links are busy in vain"
    ),
}
"""Why, by figure, by whom fMoE is compared with, and by verdict. {recall}: what fMoE's maps find of the experts."""

NARROWS = """\
*Refuted* as it is printed: whom fMoE is ahead of gains nothing by a larger cache (DeepSpeed's scan), or less than
fMoE does, up to where all experts are there and nobody copies anything. A gap narrows only where fMoE is behind.
"""
SECONDS = """\
*Cannot be said* of the seconds, of which the axis is all that is printed. Six links have 156 GB/s together, at which
whole layers of Mixtral take less than a second per token, and what a token wants takes less than that. With all six at
one link's rate whole layers are within the axis. So either the copies to six GPUs were made one after the other, or
software took the time; and a ratio of two such times is one of software, too.
"""
IDLE = """\
A layer waits for the GPU that has the most, so many times as long as if all six shared it. *Busy*: the links' share of
the time under fMoE at 6 GB; that no prefetch fills the rest is what several GPUs cost at batch 1.
"""
Gaps = dict[tuple[str, str], float]
"""By model and cache: percent."""


def shown(numbers: pd.DataFrame) -> str:
    """What the page has between its two marks."""
    parts = (times, claims, narrowing, a100, seconds, idle, two)
    return "\n".join(part(numbers) for part in parts)


def pick(numbers: pd.DataFrame, metric: str, machine: str = "six") -> dict[tuple[str, str], dict[str, float]]:
    """By model and cache, what each system has."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in numbers[numbers["machine"] == machine].to_dict("records"):
        found.setdefault((row["model"], row["cache"]), {})[row["system"]] = row[metric]
    return found


def against(numbers: pd.DataFrame, metric: str, other: str, machine: str = "six", system: str = "fmoe") -> Gaps:
    """By how many percent ``system`` is above ``other``, wherever both are."""
    cells = pick(numbers, metric, machine)
    return {key: 100 * (row[system] / row[other] - 1) for key, row in cells.items() if system in row and row[other]}


def times(numbers: pd.DataFrame) -> str:
    """TPOT and hits of every cell on the six."""
    tpot, hits = pick(numbers, "tpot_ms"), pick(numbers, "complete")
    rows = []
    for (model, cache), row in tpot.items():
        words = (f"{row[name]:.3g} ({100 * hits[model, cache][name]:.0f})" for name in TITLES)
        rows.append((MODELS.get(model, "recorded"), _gb(cache), *words))
    return _table("TPOT in ms, and hits in %", ("", "cache", *TITLES.values()), rows)


def claims(numbers: pd.DataFrame) -> str:
    """Each figure that the paper printed, beside ours, with the cause."""
    rows, causes = [], dict[tuple[str, str], list[str]]()
    recall = [row["fmoe"] for (model, _), row in pick(numbers, "recall").items() if model in MODELS]
    found_by_maps = f"{100 * min(recall):.0f} to {100 * max(recall):.0f} %"
    for name, metric, printed in PRINTED:
        for other, figure in zip(OTHERS, printed, strict=True):
            if not figure:
                continue
            every = against(numbers, metric, other)
            drawn = [v for key, v in every.items() if key[0] in MODELS and key != ALL_THERE]
            if name.endswith(_gb(LEAST)):
                drawn = [v for key, v in every.items() if key[0] in MODELS and key[1] == LEAST]
            recorded = _mean(v for key, v in every.items() if key[0] not in MODELS)
            standin = against(numbers, metric, other, system="gate_ahead")
            with_gate = _mean(v for key, v in standin.items() if key[0] in MODELS)
            said = verdict(figure, drawn, with_gate)
            ours = f"{_percent(_mean(drawn))} ({_percent(min(drawn))} to {_percent(max(drawn))})"
            words = (_percent(figure), ours, _percent(recorded), _percent(with_gate), f"*{said}*")
            rows.append((name, TITLES[other], *words))
            why = CAUSES.get((name.partition(",")[0], other, said), "nobody has looked for the cause")
            causes.setdefault((said, why), []).append(f"{name} against {TITLES[other]}")
    columns = "", "against", "printed", "here: mean (least to most)", "recorded", "stand-in", "verdict"
    said_of = [f"- {'; '.join(of)}: *{said}*. {why[0].upper()}{why[1:]}." for (said, why), of in causes.items()]
    reasons = "\n".join(said_of).format(recall=found_by_maps)
    return _table("fMoE against each", columns, rows) + f"\nWhy:\n\n{reasons}\n"


def verdict(printed: float, drawn: Sequence[float], standin: float) -> str:
    """What the page says of these words."""
    share, alike = _mean(drawn) / printed, sum(gap / printed > 0 for gap in drawn)
    if share > 0:
        return "reproduced" if 0.5 <= share <= 2 and 3 * alike >= 2 * len(drawn) else "cannot be said"
    return "refuted" if standin / printed <= 0 else "cannot be said"


def narrowing(numbers: pd.DataFrame) -> str:
    """How far fMoE is from each on the largest model, by cache."""
    gaps = {other: against(numbers, "tpot_ms", other) for other in OTHERS}
    caches = [cache for model, cache in pick(numbers, "tpot_ms") if model == "mixtral_8x7b"]
    rows = []
    for other, found in gaps.items():
        own = [found["mixtral_8x7b", cache] for cache in caches]
        rows.append((TITLES[other], *map(_percent, own), "narrows" if abs(own[-2]) < abs(own[0]) else "widens"))
    columns = "Mixtral, TPOT against", *map(_gb, caches), f"to {_gb(caches[-2])} it"
    return _table("Does the gap narrow as the cache grows?", columns, rows) + "\n" + NARROWS


def a100(numbers: pd.DataFrame) -> str:
    """One A100, whose cache the paper does not say."""
    ours = [against(numbers, "tpot_ms", other, "a100")["mixtral_8x7b", "50%"] for other in OTHERS]
    printed = [100 * (PIXELS[0] / its - 1) for its in PIXELS[1:]]
    rows = [("read off its figure", *map(_percent, printed)), ("here, half of the experts", *map(_percent, ours))]
    same = sum(a * b > 0 for a, b in zip(ours, printed, strict=True))
    said = (
        f"{same} of {len(ours)} have the same sign. *Cannot be said*: the paper does not say how large the cache was.\n"
    )
    return _table("One A100, Mixtral-8x7B", ("TPOT against", *NAMES), rows) + "\n" + said


def seconds(numbers: pd.DataFrame) -> str:
    """What their seconds are made of."""
    tpot = pick(numbers, "tpot_ms")
    rows = []
    for model, title in MODELS.items():
        own = tpot[model, LEAST]
        rows.append((title, AXES[model], *(_seconds(own, name) for name in ("fmoe", DEEPSPEED, "fmoe_artifact"))))
    narrow = pick(numbers, "tpot_ms", "six, one root")["mixtral_8x7b", LEAST]
    title = "Mixtral-8x7B, the six behind one link's 26 GB/s"
    rows.append((title, AXES["mixtral_8x7b"], *(_seconds(narrow, name) for name in ("fmoe", DEEPSPEED)), ""))
    columns = "TPOT in s, 6 GB", "axis of figure 12", "fMoE", "DeepSpeed", "fMoE as its code had it"
    return _table("Their seconds", columns, rows) + "\n" + SECONDS


def two(numbers: pd.DataFrame) -> str:
    """Two GPUs beside one, and the root that would explain what FreeToken measured.

    Of a time without prefetches, what is waited for grows with a copy's time: a root of R GB/s makes it 2 x 26 / R.
    """
    own = numbers[numbers["system"] == "lru"].set_index("machine")["tpot_ms"].to_dict()
    rows = []
    for name in (machine for machine in own if machine.startswith("two") and not machine.endswith("root")):
        both = (own["one"] / own[machine] for machine in (name, f"{name}, one root"))
        rows.append((f"`{name.removeprefix('two, ')}`", *(f"{ratio:.2f}" for ratio in both)))
    waited = own["two, replicate, one root"] / own["one"] - 1
    root = 52 / (1 + (FREETOKEN[1] / FREETOKEN[0] - 1) / waited)
    ratio = f"{FREETOKEN[0]} / {FREETOKEN[1]} = {FREETOKEN[0] / FREETOKEN[1]:.2f}"
    said = f"FreeToken's {ratio} is what `replicate` has behind a root of {root:.0f} GB/s.\n"
    columns = "tokens/s, 1 being one GPU with as much memory as each", "own links", "one root of 26 GB/s"
    return _table("Two GPUs", columns, rows) + "\n" + said


def idle(numbers: pd.DataFrame) -> str:
    """How many of six links a token's experts give something to do, if each is as likely."""
    busy = pick(numbers, "link_busy")
    rows = []
    for model, title in MODELS.items():
        experts, chosen = EXPERTS[model]
        some, most = spread(experts, chosen, 6)
        share = f"{100 * busy[model, LEAST]['fmoe']:.0f} %"
        rows.append(
            (f"{title}, {chosen} of {experts}", f"{some:.1f}", f"{most:.2f}", f"{most * 6 / chosen:.1f}", share)
        )
    columns = "a token's experts on six GPUs", "GPUs that have any", "most on one", "times an even share", "busy"
    return _table("Links that idle", columns, rows) + "\n" + IDLE


def spread(experts: int, chosen: int, gpus: int) -> tuple[float, float]:
    """Over all choices of ``chosen`` of ``experts``, which GPUs share as evenly as they can: on average, how many GPUs
    have any, and the most on one."""
    held = [experts // gpus + (gpu < experts % gpus) for gpu in range(gpus)]

    def ways(gpu: int, left: int) -> Iterator[tuple[int, tuple[int, ...]]]:
        if gpu == gpus:
            yield from [(1, ())] if not left else []
            return
        for n in range(min(left, held[gpu]) + 1):
            for count, rest in ways(gpu + 1, left - n):
                yield comb(held[gpu], n) * count, (n, *rest)

    every = list(ways(0, chosen))
    some, most = (sum(count * of(counts) for count, counts in every) for of in (lambda c: sum(map(bool, c)), max))
    return some / comb(experts, chosen), most / comb(experts, chosen)


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return f"## {title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def _percent(value: float) -> str:
    return f"{round(value):+d} %" if round(value) else "0 %"


def _gb(cache: str) -> str:
    return cache.replace("GB", " GB")


def _seconds(row: dict[str, float], system: str) -> str:
    return f"{row[system] / 1000:.2g}" if system in row else "-"
