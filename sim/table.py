"""A result as a person likes to read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from sim import room
from sim.compare.stats import BLOCKS, LEAST, few
from sim.core.accounts import FATES, PHASES
from sim.facts import worded
from sim.frame import label
from sim.predictions import SHARES
from sim.units import counted, format_bytes


def show(result: Mapping[str, Any], console: Console) -> None:
    """Print the row of the policy below its bounds, where its time went, and what the copies were for."""
    console.print(
        Group(
            *_notes(result), "", _rows(result), "", _where(result), _fates(result), *_foretold(result), *_loss(result)
        )
    )


def _notes(result: Mapping[str, Any]) -> list[Text]:
    source, memory, totals, policy = (result[key] for key in ("provenance", "memory", "totals", "policy"))
    machine = source["hardware"]
    trace = source["trace"]
    decoding = trace["decoding"]["mode"].replace("_", " ")
    config, batch = result["config"], result["config"]["workload"]["batch"]
    start = "warm" if config["warmup"] else "cold"
    chunks = f" in {config['chunks']} chunks" if config["chunks"] > 1 else ""
    return [
        Text(
            f"{source['pricing']}{_changed(source['model'])} in {config['dtype']}{chunks};"
            f" {trace['recording']}, {decoding}"
        ),
        Text(
            f"{_where_run(source)}{machine['name']} ({machine['provenance']} figures{_changed(machine)}),"
            f" budget {format_bytes(memory['budget_bytes'])},"
            f" batch {batch}, {start} start, seed {config['seed']}"
        ),
        Text(
            f"{counted(totals['requests'], 'request')} ({source['measured_requests']}):"
            f" {totals['prefill_tokens']} prompt and {totals['generated_tokens']} generated tokens"
        ),
        *([Text(room.line(memory["room"]), style="dim")] if "room" in memory else []),  # older results have none
        *_few(totals["requests"]),
        *([Text(f"{policy['name']} decided: {worded(policy['facts'])}")] if policy["facts"] else []),
    ]


def _few(requests: int) -> list[Text]:
    """That so few requests rank nothing, and how many would."""
    said = few(requests)
    return [Text(f"{said} compare wants {LEAST}, better {4 * BLOCKS}.", style="yellow")] if said else []


def _where_run(source: Mapping[str, Any]) -> str:
    """A device's run was measured there; the profile only told the policy its prices."""
    device = source.get("device")
    return f"measured on {device['name']}, {device['date']}; the policy's prices: " if device else ""


def _changed(profile: Mapping[str, Any]) -> str:
    return f", changed: {', '.join(profile['changed'])}" if profile["changed"] else ""


def _rows(result: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    bounds, tokens = result["bounds"], result["totals"]["generated_tokens"]
    multiples = ("time", "bytes") if bounds is not None else ()
    for name in ("", "TTFT ms", "TPOT ms", "tok/s", "hits %", "stall ms", "copied", *multiples):
        table.add_column(name, justify="left" if not name else "right", no_wrap=bool(name))
    own = sum(result["totals"]["stall_ns"].values()) / 1e6 / tokens
    wall, nbytes = result["totals"]["wall_ns"], copied(result["totals"])
    gaps: tuple[str, ...] = ()
    if bounds is not None:
        time, belady = bounds["time_lower_bound"], bounds["belady_bypass"]
        speed = 1000 / time["ms_per_token"] if time["ms_per_token"] else None
        table.add_row("time_lower_bound", "", "", _n(speed), "", "", "", "1.00x", "", style="cyan")
        table.add_row("belady_bypass", *[""] * 5, _b(belady["bytes_per_token"]), "", "1.00x", style="cyan")
        wall_floor, byte_floor = time["wall_ms"] * 1e6, belady["bytes"]
        for name, row in result["reference"].items():
            gaps = (times(row["wall_ns"], wall_floor), times(row["link_bytes"], byte_floor))
            table.add_row(name, *figures(row, row["stall_ms_per_token"], row["bytes_per_token"]), *gaps, style="dim")
        gaps = (times(wall, wall_floor), times(nbytes, byte_floor))
    name, style = label(result["config"]["policy"]), "bold"
    if result["quality"] is not None:
        name, style = f"{name}, lossy", "bold magenta"
    table.add_row(name, *figures(result, own, nbytes / tokens), *gaps, style=style)
    return table


def figures(row: Mapping[str, Any], stall: float, nbytes: float) -> tuple[str, ...]:
    """TTFT, TPOT, speed, hits, stall and bytes, the last two per generated token."""
    latency = row["latency_ms"]
    hits = row["hit_rate"]["complete"]
    return (
        _n(latency["ttft"] and latency["ttft"]["mean"]),
        _n(latency["tpot"] and latency["tpot"]["mean"]),
        _n(row["throughput_tokens_per_s"]),
        _n(None if hits is None else 100 * hits),
        _n(stall),
        _b(nbytes),
    )


def _where(result: Mapping[str, Any]) -> RenderableType:
    parts = {"compute": result["compute_ms_per_token"], **result["stall_ms_per_token"]}
    shown = [f"{name.replace('_', ' ')} {_n(ms)}" for name, ms in parts.items() if ms or name == "compute"]
    rates = [Text("hit rates in %")]
    for phase in ("prefill", "decode"):
        row = result["hit_rate"][phase]
        known = [f"{kind} {100 * rate:.1f}" for kind, rate in row.items() if rate is not None]
        if known:
            rates.append(Text(f"  {phase:<8}{', '.join(known)}"))
    multiples = "; time and bytes: multiples of the bounds" if result["bounds"] is not None else ""
    return Group(
        Text(f"stall and copied: per generated token{multiples}", style="dim"),
        Text(f"ms per generated token: {', '.join(shown)}"),
        *_own_time(result),
        *rates,
    )


def _own_time(result: Mapping[str, Any]) -> list[Text]:
    """What the policy's own decisions took, where the profile charges it."""
    charged, totals = result["provenance"]["hardware"].get("policy_us"), result["totals"]
    if charged is None:
        return []
    ms = _n(totals["policy_ns"] / 1e6 / totals["generated_tokens"])
    us = f"{charged['prefill']:,g} us per prefill pass, {charged['decode']:,g} us per decode pass"
    return [Text(f"of compute, the policy's own decisions: {ms} ms per generated token ({us})")]


def _fates(result: Mapping[str, Any]) -> RenderableType:
    fates = result["prefetch"]
    link = result["link_utilisation"]
    busy = (
        f"link busy {100 * link:.1f} % of the time, peak {format_bytes(result['memory']['peak_bytes'])} of the budget"
    )
    if not fates["issued"]:
        return Text(busy)
    counts = ", ".join(f"{fates[fate]} {fate.replace('_', ' ')}" for fate in FATES if fates[fate])
    return Text(f"{busy}; prefetches: {fates['issued']} issued, {counts}")


def _foretold(result: Mapping[str, Any]) -> list[Text]:
    """How good the predictions were, and who made them."""
    shares, lines = result["prefetch"]["predictions"], []
    if shares is not None:
        lines.append(Text("predictions in %"))
        for phase in PHASES:
            known = [
                f"{name.replace('_', ' ')} {100 * shares[phase][name]:.1f}"
                for name in SHARES
                if shares[phase]["predicted"]
            ]
            if known:
                lines.append(Text(f"  {phase:<8}{', '.join(known)}"))
    for name, facts in result["provenance"]["predictors"].items():
        source = {"hidden": "the gate's input", "routing": "earlier routing, and not on hidden states"}[facts["input"]]
        lines.append(
            Text(f"predictor {name} ({facts['sha256'][:12]}): fitted on {source}, {facts['stride']} layers ahead")
        )
    return lines


def _loss(result: Mapping[str, Any]) -> list[Text]:
    """What sets a lossy row apart (rule 8)."""
    quality = result["quality"]
    if quality is None:
        return []
    known = {key.replace("_", " "): share for key, share in quality.items() if isinstance(share, float)}
    shares = ", ".join(f"{name} {100 * share:.1f}" for name, share in known.items())
    return [
        Text(f"lossy, in % (first-order): {shares or 'nothing is known'}", style="magenta"),
        Text("another class: its latency ranks with other lossy rows only, and has no bounds", style="magenta"),
    ]


def copied(totals: Mapping[str, Any]) -> int:
    """Bytes over the link."""
    return int(totals["demand_bytes"] + sum(totals["speculative_bytes"].values()))


def _n(value: float | None) -> str:
    if value is None:
        return "-"
    digits = max(0, 2 - len(str(int(abs(value)))) + 1)
    return f"{value:,.{min(digits, 2)}f}"


def _b(value: float | None) -> str:
    return "-" if value is None else format_bytes(round(value))


def times(value: float, floor: float) -> str:
    """A multiple of a bound."""
    return f"{value / floor:.2f}x" if floor else "-"
