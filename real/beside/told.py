"""What ``beside.json`` says, as a table: for a terminal, and in Markdown for a page."""

from collections.abc import Mapping
from typing import Any

MB = 1e6
HEADS = ("tokens/s, decode", "tokens/s, whole", "memory, MB", "experts' slots, MB", "tokens")


def table(found: Mapping[str, Any]) -> str:
    """For a terminal: a line about the machine, a line per engine, and what is left out."""
    device = any(row["memory"]["device"] is not None for row in found["rows"])
    heads = ("", *_heads(device))
    rows = [heads, *((_name(row), *_cells(row, device)) for row in found["rows"])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    lines = [_machine(found), ""]
    for row in rows:
        cells = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
    lines += [""] * bool(found["left_out"]) + [f"no row for {name}: {why}" for name, why in found["left_out"].items()]
    return "\n".join(lines) + "\n"


def markdown(found: Mapping[str, Any]) -> str:
    """The same for a page."""
    device = any(row["memory"]["device"] is not None for row in found["rows"])
    heads = _heads(device)
    lines = [_machine(found), "", f"| engine | {' | '.join(heads)} |", f"|---|{'--:|' * len(heads)}"]
    lines += [f"| {_name(row)} | {' | '.join(_cells(row, device))} |" for row in found["rows"]]
    lines += [""] * bool(found["left_out"])
    lines += [f"- No row for {name}: {why}" for name, why in found["left_out"].items()]
    return "\n".join(lines) + "\n"


def verdict(found: Mapping[str, Any]) -> str:
    """What the rows say, in a sentence or two: rates beside the library's, and tokens."""
    rows = found["rows"]
    first, others = rows[0], rows[1:]
    said = []
    for kind, chosen in (
        ("accelerate's", [r for r in others if r["engine"] != "ours"]),
        ("ours", [r for r in others if r["engine"] == "ours"]),
    ):
        if chosen:
            times = [row["decode_per_s"]["median"] / first["decode_per_s"]["median"] for row in chosen]
            least, most = min(times), max(times)
            said.append(f"{kind} {f'{least:.2f} to {most:.2f}' if len(times) > 1 else f'{most:.2f}'}")
    same = all(row["same_tokens"] == 1 for row in rows)
    tokens = "All choose the same tokens." if same else "**Not all choose the same tokens.**"
    return f"Tokens per second in decoding, as a multiple of {first['name']}: {', '.join(said)}. {tokens}"


def _machine(found: Mapping[str, Any]) -> str:
    about = found["about"]
    each = found["prompt_tokens"]
    prompts = (
        f"{len(each)} prompts of {min(each)} to {max(each)} tokens"
        if len(each) > 1
        else f"a prompt of {each[0]} tokens"
    )
    return (
        f"{found['model']} in {found['dtype']} on {about['device']} ({about['host'].rpartition(', ')[0]}), torch"
        f" {about['torch']}, transformers {about['transformers']}, {found['date']}: {prompts},"
        f" {found['new_tokens']} tokens {'each' if len(each) > 1 else 'generated'}, {found['repeat']} rounds."
    )


def _name(row: Mapping[str, Any]) -> str:
    """With what was asked of this engine alone."""
    return (
        f"{row['name']} ({row['new_tokens']} tokens, {row['repeat']} round)"
        if "new_tokens" in row
        else str(row["name"])
    )


def _heads(device: bool) -> tuple[str, ...]:
    return (*HEADS[:3], *(["on the GPU, MB"] if device else []), *HEADS[3:])


def _cells(row: Mapping[str, Any], device: bool) -> tuple[str, ...]:
    memory = row["memory"]
    rates = [
        f"{rate['median']:.3g} ({rate['least']:.3g} to {rate['most']:.3g})"
        for rate in (row["decode_per_s"], row["whole_per_s"])
    ]
    held = [_mb(memory["peak"] if memory["answering"] is None else memory["answering"])]
    held += [_mb(memory["device"])] if device else []
    same = "the same" if row["same_tokens"] == 1 else f"{row['same_tokens']:.0%} the same"
    return (*rates, *held, _mb(memory["slots"]), same)


def _mb(nbytes: int | None) -> str:
    return "-" if nbytes is None else f"{nbytes / MB:.3g}"
