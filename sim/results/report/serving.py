"""Which pictures a report has of requests that arrive, and of which runs each is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sim.results import pictures
from sim.results.compare import Comparison
from sim.results.compare.selection import ALIKE
from sim.results.document import read_document
from sim.results.load import load, load_served
from sim.results.pictures.colours import Looks
from sim.results.pictures.findings import about
from sim.results.pictures.style import Sheet
from traces.kit.units import format_bytes

if TYPE_CHECKING:
    import pandas as pd

RATES = (
    "Latency and goodput against the rate of arrivals: all runs here that are alike but for the rate, whichever rate"
    " the page is of."
)
SHARES = (
    "One room in two parts, for the KV cache and for experts: all runs here that are alike but for the split. A ring"
    " marks each policy's best."
)
QUEUE = "Requests that wait for their first pass, and that run, over time"
WAITS = "Which share of the requests took at most so long"
Made = tuple[str, str, Callable[[], Sheet]]


def of_serving(found: Comparison, root: Path, look: Looks) -> Iterator[Made]:
    """Name, caption and maker of each; nothing in a closed loop."""
    if found.runs["workload"].iloc[0] != "online":
        return
    every = load(root, [])
    own = every[every["policy_label"].isin(found.runs["policy_label"])]
    rates, shares = (_alike(own, found.runs, but) for but in ({"rate_per_s"}, {"kv_bytes"}))
    shares = _one_total(shares, root)
    if len(set(rates["rate_per_s"])) > 1:
        yield "rates", RATES, partial(pictures.rates.sheet, rates, look)
    if len(set(shares["kv_bytes"])) > 1:
        yield "shares", SHARES, partial(pictures.shares.sheet, shares, look)
    budget, seed = int(found.runs["budget_bytes"].max()), int(found.runs["seed"].min())
    one = found.runs[(found.runs["budget_bytes"] == budget) & (found.runs["seed"] == seed)]
    served = load_served(root, one.drop_duplicates("policy_label").reset_index(drop=True), [])
    at, said = f"; {format_bytes(budget)}, seed {seed}.", about(found.runs)
    yield "queue", QUEUE + at, partial(pictures.queue.sheet, served, look, said)
    yield "waits", WAITS + at, partial(pictures.waits.sheet, served, look, said)


def _one_total(runs: pd.DataFrame, root: Path) -> pd.DataFrame:
    """Those in which experts and KV cache have as much together as in most that hold not all experts, and those that
    hold all within it: with ``kv_share`` these leave the rest of the room empty."""
    known = runs[runs["kv_bytes"].notna()]
    if not len(known):
        return known
    total = (known["budget_bytes"] + known["kv_bytes"]).astype("int64")
    whole = known["budget_bytes"] >= _all_experts(root / str(known["folder"].iloc[0]))
    if whole.all():
        return known
    most = total[~whole].mode().iloc[0]
    return known[(total == most) | whole & (total < most)]


def _all_experts(folder: Path) -> int:
    """Bytes of all experts of a run's model, in its dtype."""
    config = read_document(folder / "result.json")["config"]
    model, dtype = config["model"], config["dtype"]
    layers = (model["expert_bytes_per_layer"] or {}).get(dtype) or [model["expert_bytes"][dtype]] * model["moe_layers"]
    return int(model["experts"] * sum(layers))


def _alike(every: pd.DataFrame, runs: pd.DataFrame, but: set[str]) -> pd.DataFrame:
    """The runs that have what those of a comparison have in common, but for some columns."""
    for key in ALIKE:
        if key not in but:
            own, first = (frame[key].astype("string").fillna("null") for frame in (every, runs))
            every = every[own == first.iloc[0]]
    return every.reset_index(drop=True)
