"""Tables in Markdown, and figures as they stand in them."""

from collections.abc import Iterable, Sequence


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], right: int | None = None) -> str:
    """In Markdown; after the first column ``right`` of them (None: all) are figures."""
    figures = len(heads) - 1 if right is None else right
    rule = ("---", *["--:"] * figures, *["---"] * (len(heads) - 1 - figures))
    cells = [[str(cell).replace("|", "/") for cell in row] for row in (heads, rule, *rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def number(value: float | None) -> str:
    """Three digits."""
    return or_dash(value, ".3g" if value is None or value < 100 else ".0f")


def share(value: float | None, name: str = "tpot_ms", sign: bool = False) -> str:
    """An error: of a time as a percentage, of a rate as it is."""
    return or_dash(value, ("+" if sign else "") + (".4f" if name.startswith("hit_") else ".1%"))


def or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"
