"""Random requests and limits, and a machine whose passes take whatever time: other tests may import these."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from sim.workload.online.schedule import Arrival, Batch, Limits, Scheduler


@dataclass(frozen=True)
class Moment:
    """A pass: what arrived before it (since the last), what it computes, from when to when, and who ended with it."""

    came: tuple[Arrival, ...]
    batch: Batch
    began: int
    ended: int
    done: tuple[int, ...]


def random_limits(rng: Random, arrivals: Sequence[Arrival]) -> Limits:
    """Limits under which each of the requests can be served, some of them tight."""
    seqs, block = rng.randint(1, 6), rng.choice((1, 2, 4, 16))
    longest = max(it.tokens for it in arrivals)
    chunked = rng.random() < 0.75
    limits = Limits(
        max_num_seqs=seqs,
        max_num_batched_tokens=max(seqs, rng.randint(1, 24) if chunked else longest + rng.randint(0, 9)),
        enable_chunked_prefill=chunked,
        long_prefill_token_threshold=rng.choice((0, 0, 1, 3, 7)),
        block_size=block,
    )
    spare = rng.choice((0, 1, 3, 8))
    kv = rng.choice((None, limits.blocks(longest) + spare, limits.blocks(longest) + spare))
    return Limits(**{name: getattr(limits, name) for name in limits.__slots__} | {"kv_blocks": kv})


def random_arrivals(rng: Random) -> list[Arrival]:
    """Up to 12 requests, some at the same moment, of ids in the order of their time."""
    times = sorted(rng.randrange(60) // rng.choice((1, 10)) for _ in range(rng.randint(1, 12)))
    return [
        Arrival(i, time, rng.randrange(5), rng.randint(1, 20), rng.randint(1, 9), rng.randrange(3))
        for i, time in enumerate(times)
    ]


def drive(scheduler: Scheduler, arrivals: Sequence[Arrival], rng: Random, passes: int = 5000) -> Iterator[Moment]:
    """Serve them all, a pass after the other; they arrive whenever they do, also while a pass is under way."""
    now, left, came = 0, list(arrivals), list[Arrival]()
    while True:
        came += arrive(scheduler, left, now)
        batch = scheduler.next_pass(now)
        if batch is None:
            if not left:
                return
            now = left[0].time_ns
            continue
        began, now = now, now + rng.randint(1, 5)
        later = arrive(scheduler, left, now)
        yield Moment(tuple(came), batch, began, now, scheduler.done(batch, now))
        came = later
        passes -= 1
        assert passes, "they are never served"


def arrive(scheduler: Scheduler, left: list[Arrival], now: int) -> list[Arrival]:
    came = []
    while left and left[0].time_ns <= now:
        came.append(left.pop(0))
        scheduler.arrive(came[-1], now)
    return came
