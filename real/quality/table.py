"""Measured quality as a person likes to read it."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from sim.results.quality import SHARES
from sim.results.titles import modelled, rests_on
from traces.kit.telling import stdout_console
from traces.kit.units import format_bytes


def show(documents: Sequence[Mapping[str, Any]]) -> None:
    """One row for each budget: what was measured, then what is known to the first order, simulated / on the device."""
    console = stdout_console()
    first = documents[0]
    text, model, device = (first["provenance"][key] for key in ("text", "model", "device"))
    full = first["measured"]
    console.print(
        Text(
            f"{model['name']} in {model['dtype']} on {device['name']}; text: {text['prompts']}, {text['split']} split,"
        ),
        Text(
            f"{text['requests']} requests, {full['tokens']} tokens ({full['prefill']['tokens']} of prompts);"
            f" what follows a prompt is {text['continuation']}"
        ),
        Text(
            "perplexity of the full model: "
            + ", ".join(f"{_n(full[part]['perplexity_full'])} ({part})" for part in ("prefill", "decode"))
        ),
        sep="\n",
    )
    if about := first["provenance"].get("modelled"):
        rests = rests_on([{"policy_label": first["policy"]["name"], "modelled": modelled(about)}])
        console.print(Text(f"the simulator's figures rest on what is {rests}", style="yellow"))
    console.print()
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    low = any((document["first_order"]["device"] or {}).get("low_precision") for document in documents)
    shown = ("kept_gate_mass", *list(SHARES)[: 3 if low else 2])
    heads = ["perplexity", "KL nats", "max", "agree %", "kept mass %", "substituted %", "skipped %"]
    heads += ["lower precision %"] if low else []
    table.add_column(first["policy"]["name"], no_wrap=True)
    for name in heads:
        table.add_column(name, justify="right")
    for document in documents:
        measured, shares = document["measured"], document["first_order"]
        table.add_row(
            _row(document),
            "/".join(_n(measured[part]["perplexity"]) for part in ("prefill", "decode")),
            _n(measured["kl_nats"], 4),
            _n(measured["kl_max_nats"], 2),
            _percent(measured["token_agreement"]),
            *(_both(shares, share) for share in shown),
        )
    console.print(table)
    console.print(
        Text("perplexity: prefill/decode; from kept mass on: simulated / on the device, first-order", style="dim")
    )


def _row(document: Mapping[str, Any]) -> str:
    """What a row is of: a budget, or a dtype of all experts."""
    dtype = document["policy"]["facts"].get("uniform")
    return f"all in {dtype}" if dtype else format_bytes(document["memory"]["budget_bytes"])


def _both(shares: Mapping[str, Any], name: str) -> str:
    return " / ".join(_percent((shares[where] or {}).get(name)) for where in ("simulator", "device"))


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _n(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
