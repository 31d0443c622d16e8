"""``requests.csv``: one line per request, strictly parsed, so that an error can name its line and field."""

import csv
import io
import math
import re
from dataclasses import astuple, replace

from traces.format.layout import REQUESTS_FILE, Request
from traces.kit.errors import TraceError, one_of, refusal

COLUMNS = ("request", "prompt_tokens", "output_tokens", "arrival_s", "split", "source")
SPLITS = ("train", "test")
HEADER_LINE = ",".join(COLUMNS) + "\n"
_INTEGER = re.compile(r"0|[1-9][0-9]{0,8}")
_SECONDS = re.compile(r"[0-9]{1,12}(\.[0-9]{1,17})?(e-?[0-9]{1,2})?")


def format_request(request: Request) -> str:
    """Return the line of ``request``; raises TraceError for a value that parse_requests would refuse."""
    line = io.StringIO()
    arrival = None if request.arrival_s is None else float(request.arrival_s)  # csv writes its repr, and "" for None
    csv.writer(line, lineterminator="\n").writerow(astuple(replace(request, arrival_s=arrival)))
    _parse_line(line.getvalue()[:-1], request.request)
    return line.getvalue()


def parse_requests(raw: bytes) -> tuple[Request, ...]:
    """Parse the bytes of ``requests.csv``; requests are numbered 0, 1, 2, ... in the order of the lines."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise refusal(REQUESTS_FILE, "encoding", str(error), "UTF-8") from None
    if not text.startswith(HEADER_LINE):
        raise refusal(REQUESTS_FILE, "line 1", text[:80], HEADER_LINE.strip())
    if not text.endswith("\n"):
        raise refusal(REQUESTS_FILE, "last line", text[-40:], "a line that ends with a newline")
    lines = text[:-1].split("\n")[1:]
    return tuple(_parse_line(line, number) for number, line in enumerate(lines))


def _parse_line(line: str, number: int) -> Request:
    where = f"line {number + 2}"
    try:
        (cells,) = csv.reader([line], strict=True)
    except (csv.Error, ValueError):
        raise refusal(REQUESTS_FILE, where, line, "one line of comma-separated values") from None
    if len(cells) != len(COLUMNS):
        raise refusal(REQUESTS_FILE, f"{where}, fields", len(cells), f"{len(COLUMNS)}: {one_of(COLUMNS)}")
    fields = dict(zip(COLUMNS, cells, strict=True))

    def bad(column: str, allowed: str) -> TraceError:
        return refusal(REQUESTS_FILE, f"{where}, {column}", fields[column], allowed)

    if fields["request"] != str(number):
        raise bad("request", f"{number}, since requests are numbered from 0 in the order of the lines")
    for column in ("prompt_tokens", "output_tokens"):
        if not _INTEGER.fullmatch(fields[column]):
            raise bad(column, "an integer, 0 to 999999999")
    arrival = fields["arrival_s"]
    if arrival and not (_SECONDS.fullmatch(arrival) and math.isfinite(float(arrival))):
        raise bad("arrival_s", "seconds, at least 0, or empty")
    if fields["split"] and fields["split"] not in SPLITS:
        raise bad("split", f"{one_of(SPLITS)}, or empty")
    if not fields["source"].isprintable():
        raise bad("source", "printable text")
    prompt, output = int(fields["prompt_tokens"]), int(fields["output_tokens"])
    arrived = float(arrival) if arrival else None
    return Request(number, prompt, output, arrived, fields["split"] or None, fields["source"])
