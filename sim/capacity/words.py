"""``python -m sim capacity``: the words, and what is printed."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from sim.plan.words import known_policies, several
from traces.kit.errors import UserError
from traces.kit.strict import dump_json
from traces.kit.telling import say, showing
from traces.kit.vocabulary import MOST, Format, Out, new_picture
from traces.kit.words import Between, Others

if TYPE_CHECKING:
    from sim.capacity.answer import Question

SCHEMA = 1
"""Version of the document that ``format=json`` prints."""
OWN = ("rate", "count", "slo")
"""Keys of workload=online that the command is about, or has itself."""
REST = (
    *("trace", "model", "hardware", "host", "chunks", "workload", "kv", "warmup", "limit", "placement"),
    *("host_memory", "host_policy", "host_tier", "measure", "bounds"),
)
"""Keys of a run that may be given beside the command's own."""


def objectives(value: str) -> str:
    """A mark: what :func:`sim.results.serving.slo.parse_slo` reads."""
    from sim.results.serving.slo import FORMS, parse_slo

    try:
        parse_slo(value)
    except UserError as error:
        raise ValueError(str(error).partition("; allowed: ")[2] or FORMS) from None
    return value


def _percent(value: str, low: float, high: float) -> str:
    match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)%", value, re.ASCII)
    if match is None or not low <= float(match[1]) <= high:
        raise ValueError(f"a share, {low:g}% to {high:g}%")
    return value


def a_share(value: str) -> str:
    """A mark: 90%."""
    return _percent(value, 1, 100)


def a_tolerance(value: str) -> str:
    """A mark: 5%."""
    return _percent(value, 0.1, 100)


def sizes(value: str) -> tuple[str, ...]:
    """A mark: budgets, comma-separated."""
    from sim.experiment.budget import AUTO, sized
    from traces.kit.fields import MAX_INT

    found = _listed(value, "sizes, comma-separated, such as 25%,8GB")
    for size in found:
        if size != AUTO:
            try:
                sized(size, MAX_INT)
            except UserError as error:
                raise ValueError(f"{str(error).partition('; allowed: ')[2]}; not {size}") from None
    return found


def _listed(value: str, allowed: str) -> tuple[str, ...]:
    try:
        return several(value)
    except ValueError:
        raise ValueError(allowed) from None


def shares(value: str) -> tuple[str, ...]:
    """A mark: parts of the room for the KV cache, comma-separated."""
    from sim.experiment.online import share_of

    found = _listed(value, "shares, comma-separated, such as 10%,20%")
    for one in found:
        try:
            share_of(one)
        except UserError as error:
            raise ValueError(f"{str(error).partition('allowed: ')[2]}; not {one}") from None
    return found


def page() -> dict[str, str]:
    from sim.experiment.words import page as of_run

    found = {key: text for key, text in of_run().items() if key in REST}
    found["workload"] = "of arrivals and scheduler, workload.KEY: those of conf/workload/online.yaml"
    return found | {"bounds": "compute the bounds of each run's own passes as well (true | false)  [false]"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Finds, for each policy and budget, the highest rate of arrivals at which at
    least a share of the requests keeps within its objectives: by doubling or
    halving from 1 request/s, then by bisection. Runs are those of python -m sim
    run workload=online, and what is kept of them is read.

    {keys}

    Keys of the workload may be given as well: workload.arrivals=gamma
    workload.burstiness=0.25 workload.max_num_seqs=8; of a log, its times are
    scaled to each rate.

      python -m sim capacity policy=lru,gate_ahead budget=25%,50%
      python -m sim capacity slo='tpot<=300ms' share=50% count=50 seeds=1
    """

    policy: Annotated[tuple[str, ...], known_policies, "which, comma-separated"] = ("lru",)
    budget: Annotated[tuple[str, ...], sizes, "GPU bytes for experts, comma-separated; 8GB"] = ()
    kv_share: Annotated[
        tuple[str, ...],
        shares,
        "instead: parts of the room that are for the KV cache, as 10%,20%; the rest for experts",
    ] = ()
    slo: Annotated[str, objectives, "limits of a request: ttft, tpot, e2el (in quotes: < is the shell's)"] = (
        "ttft<=2s,tpot<=100ms"
    )
    share: Annotated[str, a_share, "of the requests that must keep within all of them"] = "90%"
    count: Annotated[int, Between(2, 10**7), "arrivals of a run"] = 200
    seeds: Annotated[int, Between(1, 100), "runs of each rate, of other arrivals and orders of requests"] = 3
    seed: Annotated[int, Between(0, MOST), "the first of them"] = 0
    rule: Annotated[Literal["all", "median"], "in which of the seeds: in all, or in the median"] = "all"
    within: Annotated[str, a_tolerance, "how close: steps of rates are no larger than this"] = "5%"
    picture: Annotated[Path | None, new_picture, "draw attainment against rate into FILE.svg or .png"] = None
    out: Annotated[Out, "where results are kept; what is there is read"] = Path("outputs")
    format: Annotated[Format, "json: one document on stdout"] = "table"
    rest: Annotated[tuple[str, ...], Others(REST, page), ""] = ()


def main(options: Options) -> None:
    """Run the command."""
    found = capacity(options)
    if options.format == "json":
        sys.stdout.write(dump_json(found))
    else:
        from sim.capacity.show import show
        from traces.kit.telling import stdout_console

        show(found, stdout_console())
    if options.picture is not None:
        from sim.capacity.draw import draw_file

        say(draw_file(found, options.picture))


def capacity(options: Options, workers: int = 0) -> dict[str, Any]:
    """The document. UserError for what cannot be asked, or run by any policy at any budget."""
    from sim.capacity.answer import answer

    it = ask(options)
    with _telling() as note:
        rows = answer(it, options.out, note, workers)
    first = next(iter(it.configs.values()))
    of, modelled = _rests_on(rows, options.out)
    return {
        "schema": SCHEMA,
        "slo": options.slo,
        "share": it.share,
        "rule": options.rule,
        "count": options.count,
        "seeds": list(it.seeds),
        "kv_share": list(options.kv_share),
        "within": 2 ** (1 / it.per_octave) - 1,
        "of": of,
        "modelled": modelled,
        "given": [word for word in options.rest if word.startswith(("policy.", "workload.")) and not _said(word)],
        "workload": {key: value for key, value in first.workload.items() if key not in OWN},
        "rows": rows,
    }


def _said(word: str) -> bool:
    """Whether the answer has a word of its own for it."""
    return word.startswith("workload.arrivals=")


def _rests_on(rows: list[dict[str, Any]], out: Path) -> tuple[list[str], str]:
    """Whose routing it is and what it is priced as, in two lines; and what was modelled."""
    from sim.results.columns import row as frame_row
    from sim.results.store import Store
    from sim.results.titles import rests_on, titles

    store, own = Store(out), []
    for row in rows:
        if row["points"]:
            folder = row["points"][0]["seeds"][0]["folder"]
            document = store.read(store.folder(folder), "result.json")
            own += [] if document is None else [frame_row(document, folder)]
    said = titles(own[0])
    return [f"{said.work},", said.where], rests_on(own)


def ask(options: Options) -> Question:
    """The question that words ask. UserError."""
    from sim.capacity.answer import Question
    from sim.capacity.search import parts
    from sim.experiment.compose import read_config

    for word in options.rest:
        key, _, value = word.lstrip("+~").partition("=")
        if key == "workload" and value != "online":
            raise UserError(f"{word}: requests arrive here; allowed: online")
        if (name := key.removeprefix("workload.")) != key and name in OWN:
            if name == "rate":
                raise UserError(f"{word}: is what is looked for; allowed: without it")
            raise UserError(f"{word}: is a key of this command; allowed: {name}={value}")
    online = [f"workload.{key}={value}" for key, value in (("rate", 1), ("count", options.count), ("slo", options.slo))]
    shared = [word for word in options.rest if word != "workload=online"]
    if not any(word.startswith("bounds=") for word in shared):
        shared.append("bounds=false")
    if options.seed + options.seeds - 1 > MOST:
        raise UserError(f"seed={options.seed}: is the first of seeds={options.seeds}; allowed: none above {MOST}")
    configs, words = {}, {}
    for policy in options.policy:
        for name, memory in _splits(options).items():
            own = (f"policy={policy}", *memory, "workload=online", *online[1:], *shared)
            with _blamed(policy if len(options.policy) > 1 else None):
                configs[policy, name] = read_config([*own, online[0]])
            words[policy, name] = own
    seeds = tuple(range(options.seed, options.seed + options.seeds))
    share, within = (float(Fraction(text.rstrip("%")) / 100) for text in (options.share, options.within))
    return Question(share, options.rule, seeds, parts(within), configs, words)


@contextmanager
def _blamed(policy: str | None) -> Iterator[None]:
    """Say whose key a key of a policy is not, where there are ``policy`` and others; and that no word is a grid."""
    try:
        yield
    except UserError as error:
        key, colon, said = str(error).partition(": ")
        own = f"policy={policy}: " if policy is not None and key.startswith("policy.") else ""
        said = said.replace("several values; add -m to run each", "several values; allowed here: one")
        raise UserError(f"{key}{colon}{own}{said}") from None


def _splits(options: Options) -> dict[str, tuple[str, ...]]:
    """How memory is split, and the words that say so."""
    if options.kv_share:
        if options.budget:
            raise UserError(
                f"budget={','.join(options.budget)}: kv_share= leaves the rest of the room for experts; allowed: one of"
                " them"
            )
        return {f"KV {share}": ("budget=auto", f"kv_share={share}") for share in options.kv_share}
    return {budget: (f"budget={budget}",) for budget in options.budget or ("8GB",)}


@contextmanager
def _telling() -> Iterator[Any]:
    """Progress on a terminal: runs so far."""
    now = [0]

    def note(done: int, _: int) -> None:
        now[0] = done

    def state() -> tuple[float, str]:
        return 1 - 0.97 ** now[0], f"{now[0]} runs" if now[0] else "the first runs"

    with showing(state, None):
        yield note
