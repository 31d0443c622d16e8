"""A result as a person likes to read it."""

from collections.abc import Mapping
from textwrap import fill
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from sim.core.accounts import CLASSES, FATES
from sim.results.classes import MARKS, MODIFIED, WHY_MODIFIED, output_of
from sim.results.columns import row
from sim.results.compare.stats import BLOCKS, LEAST, few
from sim.results.fitting import Row, fitted
from sim.results.label import label
from sim.results.serving.lines import headline, lines, unranked, who
from sim.results.serving.lines import setting as how
from sim.results.titles import rests_on, titles
from sim.results.versions import versions_worded
from sim.results.wording import decided_worded, room_line
from traces.calibrate.tables import in_words
from traces.kit.units import counted, figure, format_bytes

HEADS = ("TTFT ms", "TPOT ms", "hits %", "ms/token", "stall", "copied", "time", "bytes")
"""Of the figures of a row; the last two where there are bounds."""

MEANING = "per generated token, prompts included: ms/token, stall (a part of it), copied"
MULTIPLES = "time, bytes: multiples of the two bounds, the least that a lossless policy needs"
"""What the heads mean."""


def show(result: Mapping[str, Any], console: Console) -> None:
    """Print the row of the policy below its bounds, where its time went, and what the copies were for."""
    console.print(
        Group(
            *_notes(result),
            "",
            *_rows(result, console),
            "",
            *_where(result),
            *map(Text, lines(result)),
            *[Text(why, style="magenta") for why in (unranked(result),) if why],
            *_by_phase("hit rates in %", result["hit_rate"]),
            *_copies(result),
            *_by_phase("predictions in %", result["prefetch"]["predictions"]),
            *_scored(result),
            *_fitted(result),
            *_loss(result),
        )
    )


def _notes(result: Mapping[str, Any]) -> list[Text]:
    """The finding, and what it was found on."""
    source, policy, config, memory = (result[key] for key in ("provenance", "policy", "config", "memory"))
    totals, own = result["totals"], row(result, "")
    said = titles(own)
    setting = [how(config["workload"]), f"{'warm' if config['warmup'] else 'cold'} start"]
    if config["chunks"] > 1:
        setting.insert(1, f"{config['chunks']} copies per expert")
    if (device := source.get("device")) is not None:
        setting.insert(0, str(device["date"]))
    order = "recorded order" if config["seed"] == 0 else f"another order (seed {config['seed']})"
    trace, noisy = source["trace"], source["hardware"].get("noisy")
    mode = trace["decoding"]["mode"].replace("_", "-")
    decoding = ", decoding unknown" if mode == "unknown" else f" with {mode} decoding"
    room = fill(room_line(memory["room"]), 80, subsequent_indent="  ") if "room" in memory else ""  # older results
    ranks_nothing, facts = few(totals["requests"]), policy["facts"]
    tokens = f"{totals['prefill_tokens']:,} prompt and {totals['generated_tokens']:,} generated tokens"
    told = (
        (_finding(result), "bold"),
        (f"{said.work}{priced_in(config['dtype'])},", ""),
        (f"{said.where}, {', '.join(setting)}", ""),
        (f"{who(result)}: {tokens}", ""),
        (f"prices from noisy measurements: {in_words(noisy)}" if noisy else "", ""),
        (f"{trace['recording']}{decoding}, served in {order}", ""),
        (rests_on([own]), "yellow"),
        (room, "dim"),
        (f"{ranks_nothing} compare wants {LEAST}, better {4 * BLOCKS}." if ranks_nothing else "", "yellow"),
        (f"{policy['name']} decided: {decided_worded(facts)}" if facts else "", ""),
    )
    return [Text(text, style=style) for text, style in told if text]


def _finding(result: Mapping[str, Any]) -> str:
    name, budget = label(result["config"]["policy"]), format_bytes(result["memory"]["budget_bytes"])
    if "serving" in result:  # a time per token would have idle time in it
        mark = MARKS[output_of(result)]
        return f"{name} at {budget}: {headline(result)}" + (f", {mark}" if mark else "")
    speed = figure(result["throughput_tokens_per_s"])
    said = f"{name} at {budget}: {figure(_wall(result))} ms per token ({speed} tokens/s)"
    if mark := MARKS[output_of(result)]:
        said = f"{said}, {mark}"
    gap = result["bounds"]["time_lower_bound"]["gap"] if result["bounds"] is not None else None
    return said if gap is None else f"{said}, {gap:.2f} times the bound"


def priced_in(dtype: str) -> str:
    """`` in bfloat16``; nothing where a trace knows the bytes of its experts and no dtype."""
    return "" if dtype == "recorded" else f" in {dtype}"


def _wall(result: Mapping[str, Any]) -> float:
    """Of the measured window, ms per generated token."""
    return float(result["totals"]["wall_ns"] / 1e6 / result["totals"]["generated_tokens"])


def _rows(result: Mapping[str, Any], console: Console) -> list[RenderableType]:
    rows, bounds = list[Row](), result["bounds"]
    if bounds is not None:
        time, belady = bounds["time_lower_bound"], bounds["belady_bypass"]
        rows.append(("cyan", "", ["time_lower_bound", "", "", "", figure(time["ms_per_token"]), "", "", "1.00x", ""]))
        if belady["bytes"] is not None:
            rows.append(("cyan", "", ["belady_bypass", *[""] * 5, _bytes(belady["bytes_per_token"]), "", "1.00x"]))
        for name, found in result["reference"].items():
            speed = found["throughput_tokens_per_s"]
            wall = None if speed is None else 1000 / speed
            gaps = _gaps(bounds, found["wall_ns"], found["link_bytes"])
            words = figures(found, wall, found["stall_ms_per_token"], found["bytes_per_token"])
            rows.append(("dim", "", [name, *words, *gaps]))
    name, style = label(result["config"]["policy"]), "bold"
    if mark := MARKS[output_of(result)]:
        name, style = f"{name}, {mark}", "bold magenta"
    if unranked(result):
        name, style = f"{name}, not ranked", "bold magenta"
    rows.append((style, "", [name, *own_figures(result)]))
    return fitted(["", *(HEADS if bounds is not None else HEADS[:-2])], rows, console)


def own_figures(result: Mapping[str, Any]) -> tuple[str, ...]:
    """A run's row below HEADS; without bounds the last two are missing."""
    totals, bounds = result["totals"], result["bounds"]
    tokens, nbytes = totals["generated_tokens"], totals["demand_bytes"] + sum(totals["speculative_bytes"].values())
    stall = sum(totals["stall_ns"].values()) / 1e6 / tokens
    gaps = () if bounds is None else _gaps(bounds, totals["wall_ns"], nbytes)
    return (*figures(result, _wall(result), stall, nbytes / tokens), *gaps)


def figures(row: Mapping[str, Any], wall: float | None, stall: float, nbytes: float) -> tuple[str, ...]:
    """TTFT, TPOT, hits; and time, the part of it that is stalls, and bytes, per generated token."""
    ttft, tpot = (spread and spread["mean"] for spread in (row["latency_ms"]["ttft"], row["latency_ms"]["tpot"]))
    hits = row["hit_rate"]["complete"]
    share = "-" if hits is None else f"{100 * hits:.1f}"
    return (figure(ttft), figure(tpot), share, figure(wall), figure(stall), _bytes(nbytes))


def _gaps(bounds: Mapping[str, Any], wall_ns: float, nbytes: float) -> tuple[str, ...]:
    """Multiples of the bounds of time and bytes."""
    of = (wall_ns, bounds["time_lower_bound"]["wall_ms"] * 1e6), (nbytes, bounds["belady_bypass"]["bytes"])
    return tuple(f"{value / floor:.2f}x" if floor else "-" for value, floor in of)


def _where(result: Mapping[str, Any]) -> list[Text]:
    """What the columns are, and where the time of a token went."""
    totals = result["totals"]
    tokens = totals["generated_tokens"]
    peers = {"between GPUs": totals["peer_ns"] / 1e6 / tokens} if "peer_ns" in totals else {}
    idle = {"idle": totals["idle_ns"] / 1e6 / tokens} if "idle_ns" in totals else {}
    causes = {"compute": result["compute_ms_per_token"], **peers, **result["stall_ms_per_token"], **idle}
    parts = [f"{name.replace('_', ' ')} {figure(ms)}" for name, ms in causes.items() if ms or name == "compute"]
    meaning = MEANING if not idle else f"{MEANING}; idle time included"
    said = [Text(words, style="dim") for words in (meaning, MULTIPLES)[: 1 + (result["bounds"] is not None)]]
    said.append(Text(f"ms/token: {' + '.join(parts)}"))
    if (lookups := result["totals"].get("host_lookups")) is not None:
        ms = figure(result["totals"]["host_ns"] / 1e6 / result["totals"]["generated_tokens"])
        early = result["totals"].get("precomputed", {})
        counts = ", ".join(f"{n:,} {fate}" for fate, n in early.items() if n and fate != "asked")
        begun = f"; {early['asked']:,} asked for before their gate: {counts}" if early else ""
        said.append(Text(f"experts on the host: {lookups:,} lookups, {ms} ms/token of its workers{begun}"))
    if (tier := result.get("host_memory")) is not None:
        said.append(Text(_of_host_memory(tier, totals["host_memory"], tokens)))
    if (gpus := result.get("gpus")) is not None:
        said.append(Text(_of_gpus(gpus)))
    if (versions := result.get("versions")) is not None:
        said.append(Text(versions_worded(versions)))
    if (charged := result["provenance"]["hardware"].get("policy_us")) is not None:
        ms = figure(result["totals"]["policy_ns"] / 1e6 / result["totals"]["generated_tokens"])
        us = f"{charged['prefill']:,g} us per prefill pass, {charged['decode']:,g} us per decode pass"
        said.append(Text(f"of compute, the policy's own decisions: {ms} ms/token ({us})"))
    return said


def _of_host_memory(tier: Mapping[str, Any], totals: Mapping[str, int], tokens: int) -> str:
    """What host memory was good for, and what was read from the disk."""
    there, busy = tier["hit_rate"], tier["disk_utilisation"]
    hits = "nothing loaded" if there is None else f"{100 * there:.1f} % of {totals['lookups']:,} loads there"
    parts = [(totals["demand_bytes"], "on demand"), (totals["speculative_bytes"], "ahead")]
    reads = " + ".join(f"{format_bytes(round(n / tokens))} {what}" for n, what in parts if n) or "nothing"
    if (cached := tier.get("page_cache_share")) is not None:
        reads += f", {100 * cached:.1f} % out of the page cache"
    share = "" if busy is None else f", disk busy {100 * busy:.1f} %"
    return (
        f"host memory {format_bytes(tier['capacity_bytes'])} ({tier['tier']}, {tier['policy']}): {hits};"
        f" read per token: {reads}{share}"
    )


def _of_gpus(gpus: Mapping[str, Any]) -> str:
    """Who had the most to do."""
    each = f"{gpus['count']} GPUs ({gpus['placement']}), {format_bytes(gpus['budget_bytes'])} each"
    if gpus["imbalance"] is None:
        return f"{each}: all do the same"
    parts = [f"{name.replace('_', ' ')} {x:.2f}" for name, x in gpus["imbalance"].items() if x is not None]
    return f"{each}; of the most burdened, times the mean: {', '.join(parts) or 'nothing'}"


def _copies(result: Mapping[str, Any]) -> list[Text]:
    """How busy the link was, how full the budget, and what the prefetches were good for."""
    fates, busy = result["prefetch"], result["link_utilisation"]
    share = "-" if busy is None else f"{100 * busy:.1f}"
    said = [Text(f"link busy {share} % of the time; at most {format_bytes(result['memory']['peak_bytes'])} in use")]
    if fates["issued"]:
        counts = ", ".join(f"{fates[fate]:,} {fate.replace('_', ' ')}" for fate in FATES if fates[fate])
        said.append(Text(f"{counted(fates['issued'], 'prefetch', 'prefetches')}: {counts}"))
    return said


def _by_phase(title: str, shares: Mapping[str, Any] | None) -> list[Text]:
    """A title, and a line per phase of the shares that are known, in %."""
    if shares is None:
        return []
    said = []
    for phase in (phase for phase in CLASSES if phase in shares):
        known = [(name, share) for name, share in shares[phase].items() if name != "predicted" and share is not None]
        if known:
            parts = [f"{name.replace('_', ' ')} {100 * share:.1f}" for name, share in known]
            said.append(Text(f"  {phase:<8}{', '.join(parts)}"))
    return [Text(title), *said] if said else []


def _scored(result: Mapping[str, Any]) -> list[Text]:
    """How well the policy foretold who is demanded, where that was asked for."""
    said = []
    for phase, own in result.get("scores", {}).items():
        if own["auc"] is not None:
            even = own["log_loss_of_share"]
            loss = "" if own["log_loss"] is None else f", log loss {own['log_loss']:.4f} (of the mere share {even:.4f})"
            said.append(
                Text(f"  {phase:<8}AUC {own['auc']:.3f}{loss}; {own['answered']:,} of {own['events']:,} events")
            )
    return [Text("who is demanded, foretold before the gate"), *said] if said else []


def _fitted(result: Mapping[str, Any]) -> list[Text]:
    """Who made the predictions."""
    source = {"hidden": "the gate's input", "routing": "earlier routing, and not on hidden states"}
    return [
        Text(f"predictor {name} ({it['sha256'][:12]}): fitted on {source[it['input']]}, {it['stride']} layers ahead")
        for name, it in result["provenance"]["predictors"].items()
    ]


def _loss(result: Mapping[str, Any]) -> list[Text]:
    """What sets a row apart that is not lossless (rule 8)."""
    quality = result["quality"]
    if quality is None:
        return [Text(WHY_MODIFIED, style="magenta")] if output_of(result) == MODIFIED else []
    known = [f"{key.replace('_', ' ')} {100 * share:.1f}" for key, share in quality.items() if isinstance(share, float)]
    lines = (
        f"lossy, %: {', '.join(known) or 'nothing is known'}",
        "these are first-order: with another output, later layers would route otherwise",
        "a lossy row is compared with lossy rows only, and has no bounds",
    )
    return [Text(line, style="magenta") for line in lines]


def _bytes(value: float | None) -> str:
    return "-" if value is None else format_bytes(round(value))
