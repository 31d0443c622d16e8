"""Which tokens the rows of a served request are of.

A server has a row for each token that it fed to the model: all of the prompt and all that were generated but the last.
Some have one for the last, too; some leave out the prefix that was in their cache, some the prompt. Which one it is
follows from the counts of tokens, or is refused: a guess would shift every row.
"""

from collections.abc import Callable
from dataclasses import dataclass

from traces.format.layout import Array
from traces.importers.found import Found
from traces.kit.errors import TraceError

Refuse = Callable[[str, object, str], TraceError]


@dataclass(frozen=True)
class Counts:
    """Tokens of one request as stated; None: not stated.

    ``prompt`` and ``completion``; ``cached``: those of the prompt that the server had in its cache; ``start``: the
    token of the first row, where earlier ones were left out on demand.
    """

    prompt: int
    completion: int | None = None
    cached: int | None = None
    start: int | None = None


def placed(where: str, refuse: Refuse, ids: Array, counts: Counts, first: int | None = None) -> Found:
    """Return the request whose rows are ``ids`` [n, L, K]; ``first``: the token of the first row, where it is known.

    Tokens that the server had in its cache are context, whether they have rows or not.
    """
    prompt, completion = counts.prompt, counts.completion
    first = _first_token(refuse, ids, counts) if first is None else first
    # The token that was generated last may have a row, though it was never fed: a recorder filled it.
    if completion and first + len(ids) == prompt + completion and is_blank(ids[-1]):
        ids = ids[:-1]
    skipped = min(max(0, (counts.cached or 0) - first), len(ids))
    prefill = min(max(0, prompt - first - skipped), len(ids) - skipped)
    return Found(where, ids[skipped:], prefill, first + skipped, prompt, completion, first_row=skipped)


def is_blank(row: Array) -> bool:
    """Say whether a row [layers, k] stands for nothing: -1 alone, or zeros where a token has several experts."""
    return bool((row < 0).all() or ((row == 0).all() and row.size > row.shape[0]))


def _first_token(refuse: Refuse, ids: Array, counts: Counts) -> int:
    """Return which token the first row is of: the first one, or the one after a prefix that was left out."""
    rows, prompt, completion, cached = len(ids), counts.prompt, counts.completion, counts.cached
    if completion is not None:
        starts = [counts.start] if counts.start is not None else [0, *([cached] if cached else []), prompt]
        for unfed in (1, 0):
            for first in starts:
                if rows == prompt + completion - unfed - first:
                    return first
        said = f"rows of routed_experts (prompt_tokens {prompt}, completion_tokens {completion})"
        hint = "less what cached_tokens or routed_experts_start_len says was left out"
        if rows > prompt + completion:
            hint = "rows of drafts (speculative decoding) or of another request cannot be told from the tokens'"
        usual = f"{prompt + completion - 1}: prompt_tokens + completion_tokens - 1, or one more"
        raise refuse(said, rows, f"{usual}; {hint}")
    first = counts.start if counts.start is not None else cached if cached is not None and rows < prompt else 0
    known = counts.start is not None or cached == 0 or rows < prompt
    if cached and not known:
        known = all(is_blank(row) for row in ids[:cached])
    if (cached is None and counts.start is None) or not known:
        why = "else rows of a cached prefix that the server left out would shift all others unseen"
        raise refuse("completion_tokens", None, f"how many tokens were generated: {why} (cached_tokens 0 will do, too)")
    if not first <= prompt <= first + rows:
        raise refuse("prompt_tokens", prompt, f"{first} to {first + rows}, the rows that are there")
    return first
