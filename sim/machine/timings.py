"""When each request was admitted, had its first token, and ended."""

from dataclasses import dataclass

from sim.workload.online.feed import Serving
from sim.workload.passes import Pass


@dataclass(slots=True)
class RequestTiming:
    """One request, in nanoseconds since the start of the run. ``prefill_end`` is None where none was recorded."""

    admitted: int
    prefill_end: int | None = None
    end: int = 0
    prefill_rows: int = 0
    decode_steps: int = 0

    @property
    def ttft_ns(self) -> int | None:
        """From admission to the end of the prefill step."""
        return None if self.prefill_end is None else self.prefill_end - self.admitted

    @property
    def tpot_ns(self) -> float | None:
        """Mean over decode steps; None without any."""
        if not self.decode_steps:
            return None
        start = self.admitted if self.prefill_end is None else self.prefill_end
        return (self.end - start) / self.decode_steps

    @property
    def generated(self) -> int:
        """Tokens generated: one per decode step, and the first by the prefill where it was recorded."""
        return self.decode_steps + (self.prefill_end is not None)


class Timings:
    """Collects request timings pass by pass. Memory grows with requests, not with tokens."""

    def __init__(self) -> None:
        self.requests: dict[int, RequestTiming] = {}

    def note(self, step: Pass, began: int, ended: int) -> None:
        """A pass has ended. A request's time begins with its admission: see ClosedLoop."""
        for request in step.admits:
            self.requests[request] = RequestTiming(began)
        for request, (_, rows) in zip(step.requests, step.parts, strict=True):
            timing = self.requests.get(request)
            if timing is None:
                timing = self.requests[request] = RequestTiming(began)
            timing.end = ended
            if step.prefill:
                timing.prefill_end = ended
                timing.prefill_rows += rows
            else:
                timing.decode_steps += 1


def served_timings(serving: Serving) -> Timings:
    """Of each instance that was served: it is admitted when it arrives, and its prompt ends with its first token."""
    made, start = Timings(), serving.start or 0
    for number, its in serving.ledger.served.items():
        made.requests[number] = RequestTiming(
            start + its.arrival.time_ns,
            start + its.token_ns[0],
            start + its.end_ns,
            its.arrival.prompt_tokens,
            len(its.token_ns) - 1,
        )
    return made
