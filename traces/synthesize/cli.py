"""``python -m traces describe``, ``synthesize`` and ``augment``: the words, and what is said on stderr."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from traces.format.reader import find_trace, open_trace
from traces.kit.errors import UserError, one_of
from traces.kit.vocabulary import MOST, new_profile
from traces.kit.words import Between, Position
from traces.synthesize.words import Synthesize, recall_by_distance, signal_names
from traces.writing.workplace import refuse_place


@dataclass(frozen=True)
class Describe:
    """Measures the figures of the routing in the trace of folder DIR (or sample), and
    prints them as YAML, which synthesize like=FILE takes: how popular experts are,
    by layer; how many of its experts a token shares with those 1, 2, 4 ... 256
    before it; what requests of one source have in common, and others by how far
    apart they are; how far layers change together; the weight of the first expert;
    the recall of gates applied ahead; and the lengths.
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
    """Copies the trace in folder DIR, and makes up signals that it lacks, so that
    every policy runs on it: gate_ahead is the true routing, some of it wrong, to
    the recall stated for each distance; router_probs agree with the experts chosen
    and their weights; an embedding tells the source of a request, and no more. Each
    is named in the copy as modelled; sim says so in every table, picture, report.
    """

    folder: Annotated[str, Position("DIR"), "of a trace"]
    out: Annotated[Path, "the new trace's folder, yet to be made"]
    signals: Annotated[tuple[str, ...] | None, signal_names, "names; by default all that it lacks"] = None
    recall: Annotated[
        tuple[float, ...] | None, recall_by_distance, "of gate_ahead, by distance; by default .87,.79,.74"
    ] = None
    seed: Annotated[int, Between(0, MOST), "of all that is drawn"] = 0


def augment(options: Augment) -> None:
    """Write a copy of a trace with more signals."""
    from traces.synthesize.augment import RECALL, augment, lacking
    from traces.synthesize.signals import least_recall

    refuse_place(options.out)
    trace = open_trace(find_trace(options.folder))
    signals = lacking(trace) if options.signals is None else options.signals
    if not signals and lacking(trace):
        allowed = one_of(lacking(trace))
        raise UserError(f"signals=none: {options.folder} would be copied as it is; allowed: {allowed}")
    least = least_recall(trace.E, trace.K)
    recall = options.recall or tuple(max(least, share) for share in RECALL)[: trace.L - 1]
    if not recall and options.signals is None:
        signals = tuple(signal for signal in signals if signal != "gate_ahead")
    augment(trace, options.out, signals, recall, options.seed)
    print(f"wrote {options.out}: {one_of(signals)} modelled", file=sys.stderr)
