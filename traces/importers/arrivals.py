"""When requests arrive: logs of Azure's LLM inference traces and of BurstGPT (CSV), and of Mooncake (JSON Lines).

Azure: ``TIMESTAMP,ContextTokens,GeneratedTokens`` with ``2023-11-16 18:17:03.9799600`` (the traces of 2024 add
``+00:00``). Mooncake: objects with ``timestamp`` in milliseconds, ``input_length``, ``output_length``, ``hash_ids``.
BurstGPT: ``Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type`` in seconds, its third file with
``Session ID,Elapsed time`` as well.
Only the times are taken, and only as many as there are requests: the lengths are those of the log's own requests.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from traces.format.layout import SIGNALS
from traces.format.reader import open_trace
from traces.importers.files import Line, json_lines, text_lines
from traces.kit.errors import TraceError
from traces.writing.writer import TraceWriter

_AZURE_HEAD = b"TIMESTAMP,ContextTokens,GeneratedTokens"
_AZURE = re.compile(rb"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:\+00:00)?,(0|[1-9]\d{0,8}),(0|[1-9]\d{0,8})")
_BURSTGPT = ("Timestamp", "Model", "Request tokens", "Response tokens", "Total tokens", "Log Type")
_BURSTGPT_3 = (_BURSTGPT[0], "Session ID", "Elapsed time", *_BURSTGPT[1:])
_HEADS = {",".join(columns).encode(): columns for columns in (_BURSTGPT, _BURSTGPT_3)}
_SECONDS = re.compile(r"(0|[1-9]\d{0,9})(?:\.(\d{1,9}))?")
_TOKENS = re.compile(r"(0|[1-9]\d{0,8})(?:\.0)?")
_MOONCAKE = {"timestamp", "input_length", "output_length", "hash_ids"}
_NS = 10**9
LOGS = ("azure", "mooncake", "burstgpt")
"""The formats, by the names of their logs."""


def read_arrivals(source: Path | None, requests: int) -> list[float | None]:
    """Return the arrival of each request in seconds since the first; None for each where there is no log.

    Raises TraceError for a log that has fewer lines, goes back in time, or is of neither format.
    """
    if source is None:
        return [None] * requests
    times: list[int] = []
    for line, time, *_ in islice(_entries(source)[1], requests):
        if times and time < times[-1]:
            raise line.refuse("time", f"{(times[-1] - time) / _NS} s before the line above", "ascending times")
        times.append(time)
    if len(times) < requests:
        raise TraceError(f"{source.name}: number of arrivals is {len(times)}; allowed: at least {requests} requests")
    return [(time - times[0]) / _NS for time in times]


@dataclass(frozen=True)
class Logged:
    """One request of a log: its time in seconds since the first, and its lengths in tokens."""

    arrival_s: float
    prompt: int
    output: int


def read_log(source: Path, requests: int, least_output: int = 1, kind: str | None = None) -> list[Logged]:
    """The first ``requests`` of a log with a prompt and ``least_output`` tokens: others are passed over.

    TraceError as of read_arrivals, or for fewer, or for one that is not of the ``kind`` of LOGS, if that is given.
    """
    found: list[tuple[int, int, int]] = []
    its, entries = _entries(source)
    if kind not in (None, its):
        raise TraceError(f"{source.name}: format is {its}; allowed: {kind}")
    for line, time, prompt, output in entries:
        if found and time < found[-1][0]:
            raise line.refuse("time", f"{(found[-1][0] - time) / _NS} s before the line above", "ascending times")
        if prompt and output >= least_output:
            found.append((time, prompt, output))
        if len(found) == requests:
            break
    if len(found) < requests:
        which = f"requests with a prompt and an output of {least_output} or more"
        raise TraceError(f"{source.name}: number of {which} is {len(found)}; allowed: at least {requests}")
    return [Logged((time - found[0][0]) / _NS, prompt, output) for time, prompt, output in found]


def add_arrivals(log: Path, source: Path, target: Path) -> Path:
    """Copy the trace in folder ``source`` to the new folder ``target``, with the arrivals of ``log``."""
    trace = open_trace(source)
    times = read_arrivals(log, len(trace.requests))
    arrays = {name: getattr(trace, name) for name in SIGNALS if trace.has(name)}
    signals = {name: array.shape[1:] for name, array in arrays.items() if name != "expert_ids"}
    with TraceWriter(target, n_layers=trace.L, n_experts=trace.E, top_k=trace.K, signals=signals) as out:
        for request, time in zip(trace.requests, times, strict=True):
            steps = trace.steps[trace.steps_of(request.request)]
            rows = trace.rows_of(request.request)
            out.add_request(
                replace(request, arrival_s=time),
                steps=steps[["phase", "rows", "context"]].tolist(),
                **{name: array[rows] for name, array in arrays.items()},
            )
        return out.close(**trace.manifest.about())


Entries = Iterator[tuple[Line, int, int, int]]
"""The lines with their times in nanoseconds, and their tokens in and out."""


def _entries(source: Path) -> tuple[str, Entries]:
    """Say which of LOGS it is, and return its entries."""
    _, raw = next(text_lines(source, "arrival log", 2**20), (None, b""))
    if raw == _AZURE_HEAD:
        return "azure", _azure(source)
    if raw in _HEADS:
        return "burstgpt", _burstgpt(source, _HEADS[raw])
    if raw.startswith(b"{"):
        return "mooncake", _mooncake(source)
    allowed = f"{_AZURE_HEAD.decode()}, or {','.join(_BURSTGPT)}, or a JSON object with timestamp"
    raise Line(source.name, 1).refuse("content", raw[:80], allowed)


def _azure(source: Path) -> Entries:
    for line, raw in islice(text_lines(source, "arrival log", 200), 1, None):
        match = _AZURE.fullmatch(raw)
        try:
            seconds = datetime.fromisoformat(match[1].decode()).replace(tzinfo=UTC) if match else None
        except ValueError:
            seconds = None
        if match is None or seconds is None:
            raise line.refuse("content", raw, "YYYY-MM-DD HH:MM:SS.FRACTION,ContextTokens,GeneratedTokens")
        time = int(seconds.timestamp()) * _NS + int((match[2] or b"").ljust(9, b"0"))
        yield line, time, int(match[3]), int(match[4])


def _burstgpt(source: Path, columns: tuple[str, ...]) -> Entries:
    for line, raw in islice(text_lines(source, "arrival log", 400), 1, None):
        values = raw.decode("utf-8", "replace").split(",")
        found = dict(zip(columns, values, strict=False))
        time = _SECONDS.fullmatch(found.get("Timestamp", ""))
        tokens = [_TOKENS.fullmatch(found.get(f"{of} tokens", "")) for of in ("Request", "Response")]
        if len(values) != len(columns) or time is None or tokens[0] is None or tokens[1] is None:
            raise line.refuse("content", raw, f"{','.join(columns)}, seconds and whole numbers of tokens")
        ns = int(time[1]) * _NS + int((time[2] or "").ljust(9, "0"))
        yield line, ns, int(tokens[0][1]), int(tokens[1][1])


def _mooncake(source: Path) -> Entries:
    for line, node in json_lines(source):
        if not {"timestamp"} <= set(node) <= _MOONCAKE:
            raise line.refuse("keys", ", ".join(node), f"timestamp and others of {', '.join(sorted(_MOONCAKE))}")
        time = line.integer("timestamp", node["timestamp"], 0, 10**14) * 10**6
        prompt, output = (line.integer(key, node.get(key, 0), 0, 2**30) for key in ("input_length", "output_length"))
        yield line, time, prompt, output
