"""One small recording, begun and finished by the tests of the writer."""

from pathlib import Path
from typing import Any

from tests.traces.tiny_trace import MANIFEST
from tests.traces.writing.recording import Plan, add, contents, interrupted, reference, writer

RECIPE: dict[str, Any] = {
    "model": "tiny",
    "seed": 1,
    "decoding": {"mode": "greedy", "top_p": 1.0},
    "prompts": ["a", "b"],
}
PLAN = Plan("", (1, 0, 2))


def begin(path: Path, requests: int = 2, **changes: Any) -> None:
    """Leave a recording behind, with its last checkpoint after ``requests``, and one request more."""
    with interrupted(path, recipe=RECIPE, **changes) as out:
        for number in range(requests):
            add(out, number, PLAN.steps[number])
        out.checkpoint()
        add(out, requests, PLAN.steps[requests])


def finish(path: Path, recipe: dict[str, Any] = RECIPE) -> None:
    with writer(path, recipe=recipe) as out:
        for number in range(out.requests, len(PLAN.steps)):
            add(out, number, PLAN.steps[number])
        out.close(**MANIFEST)


def finish_alike(path: Path, recipe: dict[str, Any] = RECIPE) -> None:
    """And the trace is the one of an undisturbed recording, byte for byte."""
    finish(path, recipe)
    assert contents(path) == reference(PLAN)
