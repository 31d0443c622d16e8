"""Whose rows are whose in the forward passes of SGLang, which writes positions but no request ids.

SGLang 0.4 to 0.5 (srt/managers/scheduler.py, schedule_batch.py): a pass is either a prefill pass (forward_mode 1,
EXTEND), whose ``extend_seq_lens`` says how many rows each of its sequences has, or a decode pass (2, DECODE) with one
row of every running request. The running requests keep their order, those whose prompts are complete join at the end,
and at most one prompt is unfinished: the last of a prefill pass, which goes on as the first of the next. So the
positions of a decode pass pick those that still run. Where they fit in more than one way, the recording does not say
who they are, and is refused.

A request that made way for others (retracted) is computed again as a prompt of its own, as the server did. A prompt
that begins at the very token at which the last of the pass before ended is that one's next chunk.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from traces.kit.errors import refusal

EXTEND, DECODING, IDLE = 1, 2, 4
_MODES = {
    3: "prompt chunks and decode steps share a pass (--enable-mixed-chunk), and nothing says whose rows are whose",
    **dict.fromkeys((5, 6), "speculative decoding: rows of rejected drafts are among them"),
}


@dataclass(eq=False)
class Session:
    """One request: the token of its first row, its rows in the recording, and how many each prefill pass computed."""

    start: int
    rows: array[int] = field(default_factory=lambda: array("q"))
    chunks: list[int] = field(default_factory=list)

    @property
    def next(self) -> int:
        """The token that its next row is of."""
        return self.start + len(self.rows)


@dataclass
class Batches:
    """The requests of the passes seen so far. ``sessions`` holds all of them, in the order of their first rows."""

    file: str
    sessions: list[Session] = field(default_factory=list)
    _running: list[Session] = field(default_factory=list)
    _unfinished: Session | None = None
    _decoded: bool = False

    def add(
        self, where: str, mode: int, positions: Sequence[int], first_row: int, lengths: Sequence[int] | None
    ) -> None:
        """Add the pass at ``where`` in the file, whose rows begin at ``first_row``; raises TraceError."""
        if mode == IDLE and not positions:
            return
        if mode == EXTEND:
            if lengths is None or sum(lengths) != len(positions) or 0 in lengths:
                allowed = f"rows of each sequence, {len(positions)} in all"
                raise refusal(self.file, f"{where}.extend_seq_lens", lengths, allowed)
            self._extend(where, positions, first_row, lengths)
        elif mode == DECODING and positions:
            self._decode(where, positions, first_row)
        else:
            reason = _MODES.get(mode, "no rows, or a kind of pass that is not known")
            raise refusal(self.file, f"{where}.forward_mode", mode, f"1 (prefill), 2 (decode), 4 (idle); {reason}")

    def _extend(self, where: str, positions: Sequence[int], first_row: int, lengths: Sequence[int]) -> None:
        row = 0
        for index, length in enumerate(lengths):
            start, session = positions[row], self._unfinished
            if list(positions[row : row + length]) != list(range(start, start + length)):
                raise refusal(self.file, f"{where}.positions of sequence {index}", "with gaps", "ascending by one")
            if index > 0 or session is None or session.next != start:
                session = Session(start)
                self.sessions.append(session)
            elif session in self._running:
                self._running.remove(session)
            session.rows.extend(range(first_row + row, first_row + row + length))
            session.chunks.append(length)
            self._running.append(session)
            self._unfinished = session
            row += length

    def _decode(self, where: str, positions: Sequence[int], first_row: int) -> None:
        if 0 in positions:
            found, allowed = "0 in a decode pass", "1 or more, behind a prompt: rows of padding are no tokens"
            raise refusal(self.file, f"{where}.positions", found, allowed)
        if not self._decoded:
            self._begin(positions)
        chosen = self._chosen(where, positions)
        for row, session in enumerate(chosen):
            session.rows.append(first_row + row)
        if self._unfinished in chosen:
            self._unfinished = None
        self._running = chosen

    def _begin(self, positions: Sequence[int]) -> None:
        """At the first decode pass: whoever ran before the recording began stands before those that it saw."""
        self._decoded = True
        unseen = next(n for n in range(len(positions) + 1) if _ways(positions[n:], self._running))
        earlier = [Session(position) for position in positions[:unseen]]
        self.sessions += earlier
        self._running = earlier + self._running

    def _chosen(self, where: str, positions: Sequence[int]) -> list[Session]:
        ways = _ways(positions, self._running)
        if len(ways) == 1:
            return ways[0]
        following, why = [session.next for session in self._running], "fit in more than one way"
        if not ways:
            if len(set(positions)) == len(positions) and all(following.count(position) == 1 for position in positions):
                # A request that made way for others (retracted) may have left them in another order.
                return [self._running[following.index(position)] for position in positions]
            positions = [next((p for p in positions if p not in following), positions[0])]
            why = "continue no request that ran before"
        allowed = f"positions that say which requests they continue; these {why}: record with --max-running-requests 1"
        raise refusal(self.file, f"{where}.positions", list(positions), allowed)


def _ways(positions: Sequence[int], running: Sequence[Session]) -> list[list[Session]]:
    """Return up to two ways to choose, in order, running requests that go on at ``positions``: first and last fit."""
    following = [session.next for session in running]
    first = _fit(positions, following)
    if first is None:
        return []
    back = _fit(positions[::-1], following[::-1]) or []
    last = [len(running) - 1 - at for at in reversed(back)]
    return [[running[at] for at in way] for way in ([first] if first == last else [first, last])]


def _fit(positions: Sequence[int], following: list[int]) -> list[int] | None:
    """Return the first places of ``positions`` in ``following``, in order; None where there are none."""
    found: list[int] = []
    for position in positions:
        start = found[-1] + 1 if found else 0
        if position not in following[start:]:
            return None
        found.append(following.index(position, start))
    return found
