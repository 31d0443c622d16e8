"""Tables that fit their console: long labels take several lines, and where that is not enough, columns go.

What goes is said below the table; nothing is cut.
"""

from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

LABEL = 20
"""A label that is no longer than this stays on one line as long as there is a column that can go instead."""

Row = tuple[str, str, Sequence[str]]
"""Style, what stands before the label (blanks, a mark), and a text for each head, of which the last may be missing."""


def fitted(
    heads: Sequence[str], rows: Sequence[Row], console: Console, going: Sequence[int] = ()
) -> list[RenderableType]:
    """A table, and below it what had no room. ``heads[0]`` is that of the labels; ``going``: by place, which columns
    may go, the first one first."""
    cells = [[*words, *[""] * (len(heads) - len(words))] for _, _, words in rows]
    widths = [max(map(cell_len, column)) for column in zip(heads, *cells, strict=True)]
    longest = max((cell_len(before + words[0]) for _, before, words in rows), default=0)
    widths[0] = max(cell_len(heads[0]), longest)
    shown = list(range(len(heads)))
    least = min(widths[0], LABEL)

    def room() -> int:
        """Left for the labels: a blank stands before every other column."""
        return console.width - sum(widths[i] + 1 for i in shown[1:])

    for i in going:
        if room() >= least:
            break
        shown.remove(i)
    fits = room() >= least
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    first = min(widths[0], room()) if fits else None
    table.add_column(heads[0], width=first, overflow="fold")
    for i in shown[1:]:
        table.add_column(heads[i], justify="right", no_wrap=fits, overflow="fold")
    for (style, before, _), words in zip(rows, cells, strict=True):
        label = Table.grid()  # what a long label goes on with stands below its beginning
        label.add_row(before, Text(words[0], overflow="fold"))
        table.add_row(label if before else Text(words[0]), *(words[i] for i in shown[1:]), style=style)
    if len(shown) == len(heads):
        return [table]
    names = ", ".join(head.strip() for i, head in enumerate(heads) if i not in shown)
    return [table, Text(f"no room in {console.width} columns for: {names} (format=json has them)", style="dim")]
