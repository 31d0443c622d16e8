"""One cell on the device and in the simulator: what was measured, what was predicted, and whether the replay agrees."""

from collections.abc import Mapping, Sequence
from typing import Any

from policies.api import Policy
from real.diff import differences
from real.runtime.offloaded import Offloaded
from real.runtime.recorded import run_forced
from real.serving.beside import off, predict, served
from real.serving.loop import run_arrivals
from real.validation.ran import COUNTED, Ran, counted
from sim.core.log import replay
from sim.experiment.cell import Cell, make_core, make_policy
from sim.experiment.provenance import identify, result_of
from sim.experiment.run import simulate
from sim.results.document import Outcome

TIMES = ("tpot_ms", "ttft_ms", "stall_ms_per_token")
HITS = ("recall", "resident", "complete", "bytes")
OF_THE_CELL = ("schema", "config", "provenance", "policy", "bounds", "reference")
"""Of a result document: what device and simulator have in common. A row keeps the rest, of either."""
Logs = dict[str, Sequence[int]]
"""The two logs of facts of a cell: device and simulated."""


def compare(cell: Cell, model: Offloaded, repeat: int = 1) -> tuple[dict[str, Any], Logs]:
    """Run a cell on the device, and judge it: one row of the result."""
    run = run_forced if cell.traffic is None else run_arrivals
    return judge(cell, [Ran.of(cell, run(cell, model, make_policy(cell))) for _ in range(repeat)])


def judge(cell: Cell, runs: Sequence[Ran], priced: Cell | None = None) -> tuple[dict[str, Any], Logs]:
    """Replay the logs of a cell's runs without a clock, and simulate it: one row of the result.

    Of several runs the one of median time is the row's; ``spread`` says how far apart they are, [least, most].
    ``priced``: the same cell with the prices that are to predict, where they were known only after the run. Where
    requests arrive, times are beside those of the arrivals, served on the simulated machine; hits, host lookups and
    logs beside those of the batches that the device made.
    """
    priced = priced or cell
    found = sorted(runs, key=lambda ran: ran.wall_ns)
    ran = found[(len(found) - 1) // 2]
    replays = [_replayed(cell, it) for it in found]
    digest, unlike = replays[(len(found) - 1) // 2]
    given: Outcome | None = None
    if ran.batches is None:
        outcome = simulate(priced, _told(cell, priced), record=True)
    else:
        both = predict(priced, ran.batches, _told(cell, priced), _told(cell, priced))
        outcome, given = both.free, both.given
    same = outcome if given is None else given
    measured, predicted = ran.document, result_of(priced, outcome, None)
    of_its_batches = None if given is None else result_of(priced, given, None)
    own = identify(cell, outcome.policy.predictors())
    times = {name: [time for it in found if (time := _time(it.document, name)) is not None] for name in TIMES}
    logs: Logs = {"device": ran.log, "simulated": same.core.log}
    row = {
        "policy": dict(own.resolved["policy"]),
        "budget": cell.config.budget,
        "budget_bytes": cell.setup.budget,
        "errors": errors(measured, predicted, of_its_batches),
        "spread": {name: [min(values), max(values)] if values else None for name, values in times.items()},
        "decides": decides(predicted),
        "link": link(priced, ran, outcome),
        "replay": {
            "device_digest": ran.digest,
            "replayed_digest": digest,
            "agrees": all(again == it.digest for it, (again, _) in zip(found, replays, strict=True)),
            "accounts_agree": not any(differ for _, differ in replays),
            "unlike": unlike,
        },
        "simulated_digest": same.core.digest(),
        "first_differences": differences(logs, cell.setup.n_experts, cell.setup.chunks),
        **{key: it for key, it in predicted["provenance"].items() if key == "modelled"},
        "device": _kept(measured) | {"slots": dict(ran.slots)},
        "simulated": _kept(predicted),
        **_of_arrivals(priced, measured, predicted, of_its_batches),
        "code": own.code,
        "cell": own.key,
    }
    return row, logs


def _told(cell: Cell, priced: Cell) -> Policy:
    """The policy that predicts. One that decides by prices does as on the device, by those that it was told there."""
    policy = make_policy(priced)
    return make_policy(cell) if policy.uses("place") else policy


def _of_arrivals(
    cell: Cell, measured: Mapping[str, Any], free: Mapping[str, Any], given: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What a row has more where requests arrive."""
    if given is None:
        return {}
    return {"of_its_batches": _kept(given), "serving": served(cell.config.workload, measured, free, given)}


def _kept(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in OF_THE_CELL}


def decides(predicted: Mapping[str, Any]) -> str:
    """What most of the predicted time is spent on: "link" or "host", where compute waits more than it works, by what it
    waits for the longer; else "software".

    Known before anything is measured. Of a cell where the link decides, the error of a time is the link model's.
    """
    totals = predicted["totals"]
    waits, for_host = sum(totals["stall_ns"].values()), totals["stall_ns"]["cpu_experts"]
    return "software" if 2 * waits <= totals["wall_ns"] else "host" if 2 * for_host > waits else "link"


def link(cell: Cell, ran: Ran, outcome: Outcome) -> dict[str, float | None]:
    """GB/s while the link copies: the device's, the simulated, and of the profile's table at the size of a chunk.

    ``of_table``: the device's as a share of the table's. Bytes per busy nanosecond: how busy a link is, is the
    policy's and not the link's.
    """
    sizes, curve = set(outcome.core.state.chunk_bytes), cell.costs
    alone = {size / max(1, curve.copy_ns(size) - curve.copy_overhead_ns) for size in sizes}
    rate, accounts = _rate(ran.link["bytes"], ran.link["busy_ns"]), outcome.accounts
    table = min(alone) if len(alone) == 1 else None
    return {
        "gb_per_s": rate,
        "simulated_gb_per_s": _rate(accounts.demand_bytes + accounts.speculative_bytes, accounts.link_busy_ns),
        "table_gb_per_s": table,
        "of_table": rate / table if rate is not None and table else None,
    }


def _rate(nbytes: int, ns: int) -> float | None:
    return nbytes / ns if ns else None


def _replayed(cell: Cell, ran: Ran) -> tuple[str, list[str]]:
    """A run's log fed to a fresh core of the same cell, without a clock: the digest, and the accounts that differ."""
    core = make_core(cell, make_policy(cell))
    digest = replay(ran.log, core)
    again = counted(core.finish(core.accounts.start_ns))  # no nanosecond is told: a window of none
    # Runs of before hosts computed have no count of what they did: nothing.
    return digest, [key for key in COUNTED if again[key] != ran.counted.get(key, 0)]


def errors(
    measured: Mapping[str, Any], predicted: Mapping[str, Any], of_its_batches: Mapping[str, Any] | None = None
) -> dict[str, dict[str, Any]]:
    """By figure: what was measured, what was predicted, and how far they are apart.

    Of a time, ``error`` is (device - simulated) / device; of a hit rate, device - simulated. Null where there is none.
    Hit rates are predicted by ``of_its_batches``, where a clock decided which batches there were.
    """
    found = {}
    for name in TIMES:
        device, simulated = (_time(side, name) for side in (measured, predicted))
        found[name] = {"device": device, "simulated": simulated, "error": off(device, simulated)}
    for name in HITS:
        device, simulated = (side["hit_rate"][name] for side in (measured, of_its_batches or predicted))
        apart = None if device is None or simulated is None else device - simulated
        found[f"hit_{name}"] = {"device": device, "simulated": simulated, "error": apart}
    return found


def _time(side: Mapping[str, Any], name: str) -> float | None:
    if name == "stall_ms_per_token":
        causes = side[name].values()
        return None if None in causes else float(sum(causes))
    spread = side["latency_ms"][name.removesuffix("_ms")]
    return None if spread is None else float(spread["mean"])
