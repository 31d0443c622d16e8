"""The words of ``traces synthesize``, and marks of their values."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated

from traces.kit.errors import one_of
from traces.kit.vocabulary import MOST
from traces.kit.words import Between

MADE = ("expert_weights", "router_probs", "gate_ahead", "embedding")
"""Signals that can be made up."""


def recall_by_distance(value: str) -> tuple[float, ...]:
    """A mark: shares by distance, comma-separated."""
    try:
        found = tuple(float(share) for share in value.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 <= share <= 1 for share in found):
        raise ValueError("shares from 0 to 1, comma-separated, for one layer ahead, two, ...: .87,.79,.74")
    return found


def signal_names(value: str) -> tuple[str, ...]:
    """A mark: names, comma-separated, or none."""
    found = () if value == "none" else tuple(value.split(","))
    if not {*found} <= {*MADE} or len({*found}) < len(found):
        raise ValueError(f"none, or some of {one_of(MADE)}, comma-separated")
    return found


def token_range(value: str) -> tuple[int, int]:
    """A mark: N, or LOW-HIGH."""
    low, _, high = value.partition("-")
    found = (int(low), int(high or low)) if low.isdecimal() and (not high or high.isdecimal()) else (0, 0)
    if not 1 <= found[0] <= found[1] <= 2**24:
        raise ValueError(f"tokens, such as 200, or from 20-800 (each length as likely in its logarithm), up to {2**24}")
    return found


def share_or_times(value: str) -> tuple[float, bool]:
    """A mark: a share, or so many times uniform."""
    number, times = (value[:-1], True) if value.endswith("x") else (value, False)
    try:
        found = float(number)
    except ValueError:
        found = -1.0
    if not 0 <= found < 2**16 or (not times and found > 1):
        raise ValueError("a share from 0 to 1, or so many times the share by chance, K / E, such as 2.5x")
    return found, times


@dataclass(frozen=True)
class Synthesize:
    """Draws a trace that nobody recorded: of any model's shape, with routing like
    that of the figures given. The same words make the same bytes. What a key states
    otherwise than the figures is kept in the trace beside them, and every signal is
    named there as modelled; sim says so in every table, picture and report.

    {keys}

    Figures that are shipped: deepseek_v2_lite, default, gpt_oss_20b, mixtral_8x7b,
    qwen3_8_flash_next, tiny-moe; others are read from a FILE of describe. Figures
    of another shape are read at evenly spaced layers and experts.
    """

    model: Annotated[str, "a name of conf/model, or the config.json of a model of a known family"]
    out: Annotated[Path, "the trace's folder, yet to be made"]
    like: Annotated[str, "figures: a name or FILE.yaml; by default the model's where there are any, else default"] = ""
    requests: Annotated[int, Between(1, MOST), "how many"] = 64
    prompt: Annotated[tuple[int, int] | None, token_range, "tokens of a prompt: N or LOW-HIGH; else as figures"] = None
    output: Annotated[tuple[int, int] | None, token_range, "tokens of an output, likewise"] = None
    lengths: Annotated[
        Path | None, "a log, Azure's CSV or Mooncake's JSON Lines: lengths and arrivals are those of its first requests"
    ] = None
    prefill: Annotated[bool | None, "whether prompts have routing; else as the figures'"] = None
    entropy: Annotated[float | None, Between(0, 1), "of the experts' popularity, as a share of the uniform one's"] = (
        None
    )
    overlap: Annotated[
        tuple[float, bool] | None,
        share_or_times,
        "of a token's experts with the one's before: .45, or 2.5x uniform",
    ] = None
    together: Annotated[float | None, Between(0, 1), "the correlation of two layers' overlaps"] = None
    topics: Annotated[int | None, Between(1, 2**16), "that requests are about, one each"] = None
    signals: Annotated[tuple[str, ...] | None, signal_names, "none, or names, comma-separated; by default all"] = None
    recall: Annotated[tuple[float, ...] | None, recall_by_distance, "of gate_ahead, by distance: .87,.79,.74"] = None
    split: Annotated[Fraction, Between(0, 1), "share of the requests that are for training"] = Fraction(7, 10)
    seed: Annotated[int, Between(0, MOST), "of all that is drawn"] = 0
