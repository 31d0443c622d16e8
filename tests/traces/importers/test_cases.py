"""Small cases after public reports (they lie beside the repository): each is imported, or refused for what it is.

The kinds have tests of their own on inputs made there; this one holds the reported inputs themselves.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from tests.traces.importers.imported import refuse, take
from traces.importers import Options


class Case(NamedTuple):
    """``found``: L, E, K, N, steps and the first prompt's context; or the pattern of a refusal."""

    kind: str
    file: str
    found: tuple[int, int, int, int, int, int] | str
    options: Mapping[str, Any] = MappingProxyType({})


ROUTED = "routed_experts"
CASES = [
    Case(ROUTED, "stuck_rows.jsonl", (3, 16, 2, 120, 93, 0)),
    Case(ROUTED, "c05_cached_zero_rows.jsonl", (4, 16, 2, 6, 5, 4)),
    Case(ROUTED, "c19_prefix_sentinel.jsonl", (2, 8, 2, 4, 3, 2)),
    Case(ROUTED, "minus1_row.jsonl", (3, 16, 2, 8, 5, 0)),
    Case(ROUTED, "minus1_row_npy.jsonl", (3, 16, 2, 8, 5, 0)),
    Case(ROUTED, "c09_minus1.jsonl", (4, 16, 2, 10, 5, 0)),
    Case(ROUTED, "c05_omitted_nocompl.jsonl", "line 1, completion_tokens is None"),
    Case(ROUTED, "v021_manual.jsonl", (3, 16, 2, 9, 6, 0)),
    Case("jsonl", "c12_one_layer.jsonl", (1, 16, 2, 8, 6, 0)),
    Case("jsonl", "c15_layers_from_1.jsonl", (2, 16, 2, 6, 4, 0)),
    Case(ROUTED, "c07_interleaved_dense.jsonl", "layers 0,2 .*allowed: without_layers=0,2"),
    Case(ROUTED, "c07_interleaved_dense.jsonl", (2, 16, 2, 10, 5, 0), {"without_layers": frozenset({0, 2})}),
    Case(ROUTED, "c02_zero_prompt.jsonl", "of the prompt is 'zeros alone .*phases=decode"),
    Case(ROUTED, "c02_zero_prompt.jsonl", (4, 16, 2, 4, 4, 6), {"phases": "decode"}),
    Case(ROUTED, "c02_zero_prompt_top1.jsonl", "of the prompt is 'zeros alone .*phases=decode"),
    Case(ROUTED, "c02_zero_prompt_top1.jsonl", (4, 16, 1, 4, 4, 6), {"phases": "decode"}),
    Case("route_trace", "c01_dropped.csv", (3, 8, 2, 5, 3, 0)),
    Case("route_trace", "c01_spec.csv", (3, 8, 2, 5, 3, 0)),
    Case("route_trace", "c01_nan.csv", (3, 8, 2, 5, 3, 0)),
    Case("route_trace", "c01_dense.csv", (2, 8, 2, 5, 3, 0)),
    Case(ROUTED, "c16_fortran.jsonl", (3, 600, 2, 8, 5, 0)),
    Case("npz", "c16_fortran.npz", (3, 600, 2, 8, 5, 0)),
    Case(ROUTED, "s_physical.jsonl", (4, 20, 2, 186, 120, 0)),
    Case(ROUTED, "s_physical.jsonl", "is 17; allowed: 0 to 15", {"n_experts": 16}),
    *(Case(ROUTED, f"formats/{name}", (3, 16, 2, 16, 10, 0)) for name in ("array.json", "blankline.jsonl")),
    *(
        Case(ROUTED, f"formats/{name}", (3, 16, 2, 8, 5, 0))
        for name in ("bom.jsonl", "sse.jsonl", "good.jsonl.gz", "dict_payload.jsonl")
    ),
    *(Case(kind, "formats/f_layer_expert_count.csv", "counts per expert") for kind in (ROUTED, "jsonl", "route_trace")),
]


@pytest.mark.parametrize("case", [pytest.param(case, id=f"{case.file}-{number}") for number, case in enumerate(CASES)])
def test_a_reported_case(shared_data: Path, tmp_path: Path, case: Case) -> None:
    source = shared_data / "cases" / case.file
    if not source.is_file():
        pytest.skip(f"{source} is not here: a reported input that the project does not ship")
    content = source.read_bytes()
    if isinstance(case.found, str):
        refuse(tmp_path, case.kind, content, case.found, Options(**case.options))
    else:
        trace = take(tmp_path, case.kind, content, Options(**case.options)).trace
        first = int(trace.steps["context"][0])
        assert (trace.L, trace.E, trace.K, trace.N, len(trace.steps), first) == case.found
