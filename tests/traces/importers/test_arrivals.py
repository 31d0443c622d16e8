"""Logs of arrivals become the arrivals of the requests, in seconds since the first."""

from pathlib import Path

import pytest

from tests.traces.importers.imported import take
from traces import TraceError, open_trace
from traces.cli import main
from traces.importers import Options
from traces.importers.arrivals import Logged, read_arrivals, read_log

AZURE = [
    "TIMESTAMP,ContextTokens,GeneratedTokens",
    "2023-11-16 23:59:59.9799600,4808,10",
    "2023-11-17 00:00:00.0319600,3180,8",
    "2023-11-17 00:00:01,0,0",
]
BURSTGPT = [
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
    "5,ChatGPT,472,18,490,Conversation log",
    "45.5,GPT-4,1087,0,1087,API log",
    "118.0,ChatGPT,417.0,276,693,Conversation log",
]
BURSTGPT_3 = [
    "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type",
    "5,a-b,1.25,ChatGPT,472,18,490,Conversation log",
    "6,,2,GPT-4,3,4,7,API log",
]
MOONCAKE = [f'{{"timestamp": {time}, "input_length": 9, "output_length": 9, "hash_ids": [0]}}' for time in (5, 5, 3007)]


def log(folder: Path, lines: list[str], end: str = "\n") -> Path:
    source = folder / "log"
    source.write_bytes(end.join(lines).encode())
    return source


ZONED = [AZURE[0], "2024-05-10 00:00:00.009930+00:00,2162,5", "2024-05-10 00:00:00.017335+00:00,2399,6"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("lines", "times"),
    [
        (AZURE, [0, 0.052, 1.02004]),
        (ZONED, [0, 0.007405]),
        # As Excel saves it, with a mark in front and a blank line at the end.
        (["\ufeff" + AZURE[0], *AZURE[1:], ""], [0, 0.052]),
        (MOONCAKE, [0, 0, 3.002]),
        (MOONCAKE, [0, 0]),
        (BURSTGPT, [0, 40.5, 113]),
        (BURSTGPT_3, [0, 1]),
    ],
)
def test_times_are_those_of_the_first_lines(tmp_path: Path, lines: list[str], times: list[float], end: str) -> None:
    assert read_arrivals(log(tmp_path, lines, end), len(times)) == times
    assert read_arrivals(None, 2) == [None, None]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "line 1, content is b''"),
        (["time,tokens"], "line 1, content is b'time,tokens'; allowed: TIMESTAMP"),
        (AZURE[:3], "number of arrivals is 2; allowed: at least 3"),
        ([AZURE[0], AZURE[2], AZURE[1], AZURE[3]], "line 3, time is '0.052 s before the line above'"),
        ([*AZURE[:3], "2023-02-30 00:00:01,1,1"], "line 4, content"),
        ([*AZURE[:3], "2023-11-17 00:00:01,1,-1"], "line 4, content"),
        ([*AZURE[:3], "2023-11-17 00:00:01,1,1" + "0" * 300], "line 4, length"),
        ([*BURSTGPT[:3], "9,GPT-4,1,1,2,API log"], "line 4, time is '36.5 s before the line above'"),
        ([*BURSTGPT[:3], "99,GPT-4,1,x,2,API log"], "line 4, content is .*; allowed: Timestamp,Model"),
        ([*BURSTGPT[:3], "99,GPT-4,1,1,2"], "line 4, content"),
        ([BURSTGPT_3[0], *BURSTGPT[1:]], "line 2, content is .*; allowed: Timestamp,Session ID"),
        (['{"timestamp": -1}'], "line 1, timestamp is -1"),
        (['{"timestamp": 1, "arrival": 2}'], "line 1, keys"),
        (['{"timestamp": 2}', '{"timestamp": 1}'], "line 2, time"),
    ],
)
def test_bad_logs_name_the_line(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(TraceError, match=f"^[^\n]*{message}[^\n]*$"):
        read_arrivals(log(tmp_path, lines), 3)


def test_lengths_are_read_and_requests_without_output_passed_over(tmp_path: Path) -> None:
    assert read_log(log(tmp_path, BURSTGPT), 2, kind="burstgpt") == [Logged(0, 472, 18), Logged(113, 417, 276)]
    with pytest.raises(TraceError, match=r"^log: number of requests with a prompt and an output of 1 or more is 2; "):
        read_log(log(tmp_path, BURSTGPT), 3)
    with pytest.raises(TraceError, match=r"^log: format is burstgpt; allowed: azure$"):
        read_log(log(tmp_path, BURSTGPT), 1, kind="azure")


def test_an_import_takes_arrivals(tmp_path: Path) -> None:
    content = [{"request": r, "token": 0, "layer": 0, "ids": [r]} for r in range(3)]
    trace = take(tmp_path, "jsonl", content, Options(arrivals=log(tmp_path, AZURE))).trace
    assert [request.arrival_s for request in trace.requests] == [0, 0.052, 1.02004]


def test_a_trace_gets_arrivals_and_nothing_else_changes(tiny: Path, tmp_path: Path) -> None:
    target = tmp_path / "timed"
    assert main(["arrivals", str(log(tmp_path, AZURE)), str(tiny), str(target)]) == 0
    trace, before = open_trace(target), open_trace(tiny)
    assert [request.arrival_s for request in trace.requests] == [0, 0.052, 1.02004]
    for path in tiny.glob("*.npy"):
        assert (target / path.name).read_bytes() == path.read_bytes()
    assert (trace.manifest.model, trace.manifest.decoding) == (before.manifest.model, before.manifest.decoding)
    assert main(["arrivals", str(log(tmp_path, AZURE[:3])), str(tiny), str(tmp_path / "other")]) == 2
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("name", "requests", "last"),
    [
        ("AzureLLMInferenceTrace_conv.csv", 19366, 3501.721937),
        ("AzureLLMInferenceTrace_code.csv", 8819, 3435.948056),
        ("mooncake_conversation_trace.jsonl", 12031, 3536.999),
    ],
)
def test_the_published_logs(shared_data: Path, name: str, requests: int, last: float) -> None:
    times = read_arrivals(shared_data / "workloads" / name, requests)
    assert times[0] == 0
    assert times[-1] == last
    with pytest.raises(TraceError, match=f"number of arrivals is {requests}"):
        read_arrivals(shared_data / "workloads" / name, requests + 1)
