"""The columns of runs in which requests arrived."""

from collections.abc import Iterator

from sim.core.accounts import KINDS
from sim.results.column import DTYPES, SPREAD, Column

SHA = "arrivals_sha256"
SERVED = {
    "queueing": "from arrival to the first pass",
    "itl": "between two tokens, all of them pooled",
    "itl_beside_prefill": "the same where another's prompt was computed meanwhile",
}


def of_serving() -> Iterator[Column]:
    """Empty where the requests were replayed one after the other."""
    text, whole, number, _ = DTYPES
    yield Column("rate_per_s", number, "requests/s", "of arrivals, where one was given", "config.workload.rate")
    yield Column("kv_bytes", whole, "B", "GPU memory for the KV cache, where it was given", "config.kv_bytes")
    yield Column("kv_share", number, "share", "of the room for experts and KV cache, the latter, where it was given")
    yield Column(SHA, text, "SHA-256", "who arrives when, which depends on the seed", f"config.workload.{SHA}")
    yield Column("slo", text, "", "workload.slo, by which goodput counts", "config.workload.slo")
    yield Column("arrivals", whole, "requests", "that arrived", "serving.arrivals.arrivals")
    yield Column("most_replays", whole, "", "of one recorded request", "serving.arrivals.replays.most")
    for key, what in SERVED.items():
        for part in SPREAD:
            yield Column(f"{key}_ms_{part}", number, "ms", f"{what}, {part}", f"serving.latency_ms.{key}.{part}")
    for key, unit, what in (
        ("requests_per_s", "requests/s", "that have ended"),
        ("goodput_per_s", "requests/s", "of these within workload.slo"),
        ("good_share", "share", "of requests within workload.slo"),
    ):
        yield Column(key, number, unit, what, f"serving.{key}")
    yield Column(
        "peak_concurrency", whole, "requests", "most at a time, arrived and not ended", "serving.concurrency.peak"
    )
    yield Column("preemptions", whole, "", "of running requests, for want of KV blocks", "serving.preemptions")
    yield Column("recomputed_tokens", whole, "tokens", "computed again after these", "serving.recomputed_tokens")
    yield Column("kv_peak_bytes", whole, "B", "most of the KV cache in use", "serving.kv.peak_bytes")
    for kind in KINDS:
        yield Column(f"{kind}_passes", whole, "", f"{kind} passes", f"serving.passes.{kind}.count")
        yield Column(f"{kind}_ns", whole, "ns", f"that {kind} passes took", f"serving.passes.{kind}.ns")
    yield Column("idle_ns", whole, "ns", "nobody had arrived whom a pass could serve", "serving.idle_ns")
