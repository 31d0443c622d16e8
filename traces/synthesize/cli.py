"""``python -m traces describe``, ``synthesize`` and ``augment``: the words, and what is said on stderr."""

import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated

from traces.format.reader import find_trace, open_trace
from traces.kit.errors import UserError, one_of
from traces.kit.vocabulary import MOST, new_profile
from traces.kit.words import Between, Position
from traces.writing.workplace import refuse_place


@dataclass(frozen=True)
class Describe:
    """Measures the figures of the routing in the trace of folder DIR (or sample), and
    prints them as YAML, which synthesize like=FILE takes: how popular experts are, by
    layer; how many of its experts a token shares with those 1, 2, 4 ... 128 before it;
    what requests of one source have in common; how far layers change together; the
    weight of the first expert; the recall of gates applied ahead; and the lengths.
    """

    folder: Annotated[str, Position("DIR"), "of a trace"]
    name: Annotated[str, "what the figures are called; by default the trace's model"] = ""
    out: Annotated[Path | None, new_profile, "write them into this file, not to stdout"] = None


def describe(options: Describe) -> None:
    """Print the figures of a trace, or write them."""
    from traces.kit.whole import write_whole
    from traces.synthesize.measure import measure

    trace = open_trace(find_trace(options.folder))
    text = measure(trace, options.name or trace.manifest.model.name).to_yaml()
    if options.out is None:
        sys.stdout.write(text)
    else:
        write_whole(options.out, text)
        print(f"wrote {options.out}", file=sys.stderr)


def _recall(value: str) -> tuple[float, ...]:
    """A mark: shares by distance, comma-separated."""
    try:
        found = tuple(float(share) for share in value.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 <= share <= 1 for share in found):
        raise ValueError("shares from 0 to 1, comma-separated, for one layer ahead, two, ...: .87,.79,.74")
    return found


def _signals(value: str) -> tuple[str, ...]:
    """A mark: names, comma-separated, or none."""
    from traces.synthesize.signals import MADE

    found = () if value == "none" else tuple(value.split(","))
    if not {*found} <= {*MADE} or len({*found}) < len(found):
        raise ValueError(f"none, or some of {one_of(MADE)}, comma-separated")
    return found


def _lengths(value: str) -> tuple[int, int]:
    """A mark: N, or LOW-HIGH."""
    low, _, high = value.partition("-")
    found = (int(low), int(high or low)) if low.isdecimal() and (not high or high.isdecimal()) else (0, 0)
    if not 1 <= found[0] <= found[1] <= 2**24:
        raise ValueError(f"tokens, such as 200, or from 20-800 (each length as likely in its logarithm), up to {2**24}")
    return found


def _overlap(value: str) -> tuple[float, bool]:
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
    """Draws a trace that nobody recorded: of any model's shape, with routing like that of
    the figures given. Its result is the same for the same words. What a key states
    otherwise than the figures is kept in the trace beside them, and every signal is
    named there as modelled; sim says so in every table, picture and report.

    {keys}

    Figures are shipped of FIGURES; others are read from a FILE of describe. Figures of
    another shape are read at evenly spaced layers and experts.
    """

    model: Annotated[str, "a name of conf/model, or the config.json of a model of a known family"]
    out: Annotated[Path, "the trace's folder, yet to be made"]
    like: Annotated[str, "figures: a name or FILE.yaml; by default the model's where there are any, else default"] = ""
    requests: Annotated[int, Between(1, MOST), "how many"] = 64
    prompt: Annotated[tuple[int, int] | None, _lengths, "tokens of a prompt: N or LOW-HIGH; else the figures'"] = None
    output: Annotated[tuple[int, int] | None, _lengths, "tokens of an output, likewise"] = None
    lengths: Annotated[
        Path | None, "a log, Azure's CSV or Mooncake's JSON Lines: lengths and arrivals are those of its first requests"
    ] = None
    prefill: Annotated[bool | None, "whether prompts have routing; else as the figures'"] = None
    entropy: Annotated[float | None, Between(0, 1), "of the experts' popularity, as a share of the uniform one's"] = (
        None
    )
    overlap: Annotated[
        tuple[float, bool] | None, _overlap, "of a token's experts with those of the one before: .45, or 2.5x uniform"
    ] = None
    together: Annotated[float | None, Between(0, 1), "the correlation of two layers' overlaps"] = None
    topics: Annotated[int | None, Between(1, 2**16), "that requests are about, one each"] = None
    signals: Annotated[tuple[str, ...] | None, _signals, "none, or names, comma-separated; by default all"] = None
    recall: Annotated[tuple[float, ...] | None, _recall, "of gate_ahead, by distance: .87,.79,.74"] = None
    split: Annotated[Fraction, Between(0, 1), "share of the requests that are for training"] = Fraction(7, 10)
    seed: Annotated[int, Between(0, MOST), "of all that is drawn"] = 0


def synthesize(options: Synthesize) -> None:
    """Draw a trace, and write it."""
    from traces.synthesize.plan import plan_of
    from traces.synthesize.synthesize import synthesize

    refuse_place(options.out)
    plan = plan_of(options)
    synthesize(plan, options.out)
    print(
        f"synthesized {options.out}: modelled, like {plan.figures.name}; check it with python -m traces check",
        file=sys.stderr,
    )


@dataclass(frozen=True)
class Augment:
    """Copies the trace in folder DIR, and makes up signals that it lacks, so that every
    policy runs on it: gate_ahead is the true routing, some of it wrong, to the recall
    stated for each distance; router_probs agree with the experts chosen and their
    weights; an embedding tells the source of a request, and no more. Each is named in
    the copy as modelled; sim says so in every table, picture and report.
    """

    folder: Annotated[str, Position("DIR"), "of a trace"]
    out: Annotated[Path, "the new trace's folder, yet to be made"]
    signals: Annotated[tuple[str, ...] | None, _signals, "names, comma-separated; by default all that it lacks"] = None
    recall: Annotated[tuple[float, ...], _recall, "of gate_ahead, by distance"] = (0.87, 0.79, 0.74)
    seed: Annotated[int, Between(0, MOST), "of all that is drawn"] = 0


def augment(options: Augment) -> None:
    """Write a copy of a trace with more signals."""
    from traces.synthesize.augment import augment, lacking

    refuse_place(options.out)
    trace = open_trace(find_trace(options.folder))
    signals = lacking(trace) if options.signals is None else options.signals
    if not signals:
        allowed = one_of(lacking(trace)) or "no augment, since it lacks none"
        raise UserError(f"signals=none: {options.folder} would be copied as it is; allowed: {allowed}")
    augment(trace, options.out, signals, options.recall, options.seed)
    print(f"wrote {options.out}: {one_of(signals)} modelled", file=sys.stderr)
