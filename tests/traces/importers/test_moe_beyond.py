"""MoE-Beyond's CSVs: prompts of one pass, from a file, from files one behind the other, or from their folder."""

from pathlib import Path

import numpy as np
import pytest

from tests.traces.importers.imported import ids, refuse, steps, take
from traces import TraceError, open_trace
from traces.importers import Options
from traces.importers.cli import importers

HEAD = "Layer ID,Batch Number,Token,Activated Expert IDs"
START = "<\uff5cbegin\u2581of\u2581sentence\uff5c>"
ROWS = [f'1,0,{START},"[8, 3]"', '1,0,",","[4, 5]"', f'2,0,{START},"[0, 9]"', '2,0,",","[1, 2]"']
IDS = [[[8, 3], [0, 9]], [[4, 5], [1, 2]]]


def text(*rows: str, head: str = HEAD) -> str:
    return "\r\n".join([head, *rows]) + "\r\n"


def test_a_prompt_is_one_pass(tmp_path: Path) -> None:
    found = take(tmp_path, "moe_beyond", text(*ROWS))
    trace = found.trace
    assert (trace.L, trace.E, trace.K) == (2, 12, 2)
    assert steps(trace) == [(0, 0, 2, 0)]
    assert ids(trace) == IDS
    assert (trace.requests[0].prompt_tokens, trace.requests[0].output_tokens) == (2, 1)
    assert trace.manifest.decoding["generated"] == "nothing: prompts alone"
    assert "layer 0 of the 3" in "\n".join(found.notes)


def test_batches_embeddings_and_further_headers(tmp_path: Path) -> None:
    batched = [
        *('1,0,a,"[8, 3]"', '1,0,"say ""b""","[4, 5]"', "1,1,c,[7]"),
        *('2,0,a,"[0, 9]"', '2,0,"say ""b""","[1, 2]"', '2,1,c,"[6, 5]"'),
    ]
    wide = [row + ',"[0.5, -1.25e-05]"' for row in ROWS]
    content = text(*batched) + text(*wide, head=f"{HEAD},Token Embedding Vector")
    trace = take(tmp_path, "moe_beyond", content).trace
    assert steps(trace) == [(0, 0, 2, 0), (1, 0, 1, 0), (2, 0, 2, 0)]
    assert ids(trace) == [*IDS, [[7, -1], [6, 5]], *IDS]


def test_a_folder_by_the_numbers_in_its_names(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in (2, 10, 1):
        one = [f"1,0,x,[{number}]", f"2,0,x,[{number}]"]
        (folder / f"prompt_{number}_data.csv").write_text(text(*one))
    (folder / "README.md").write_text("no data")
    trace = open_trace(importers()["moe_beyond"].run(folder, tmp_path / "trace", Options()))
    assert np.ravel(trace.expert_ids).tolist() == [1, 1, 2, 2, 10, 10]
    (folder / "prompt_3_data.csv").write_text(text("1,0,x,[3]"))
    with pytest.raises(TraceError, match=r"prompt_3_data.csv: line 2, layer 2 of this prompt is 'missing'"):
        importers()["moe_beyond"].run(folder, tmp_path / "second", Options())
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(TraceError, match=r"0 CSV files; allowed: 1 to"):
        importers()["moe_beyond"].run(empty, tmp_path / "second", Options())
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "line 1, content is 'no routing'"),
        (text(), "line 1, content is 'no routing'"),
        ("\n".join(ROWS), "line 1, content is '1,0,<"),
        ("layer,expert,count\n1,2,3\n", "line 1, content is 'counts per expert"),
        (text("1,0,a,[1]", "1,0,b,c,[1]"), "line 3, content is '1,0,b,c,[1]'"),
        (text("1,0,a,[1, 2]"), "line 2, content"),
        (text('1,0,a,"[1, 65534]"'), "line 2, Activated Expert IDs is 65534"),
        (text('1,0,a,"[1, 1]"'), "prompt from line 2 on: expert ids of token row 0, layer 1 is [1, 1]"),
        (text("2,0,a,[1]", "1,0,a,[1]"), "line 3, Layer ID is 1; allowed: at least 2"),
        (text(*ROWS[:-1]), "line 2, tokens of layer 2 in batch 0 is 1; allowed: 2, as in other layers"),
        (text(*ROWS) + text(*ROWS[:2]), "line 7, layer 2 of this prompt is 'missing'; allowed: the layers of"),
        (text("1,0,a,[]"), "line 2 on: routing is 'missing from every row'"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: str, message: str) -> None:
    refuse(tmp_path, "moe_beyond", content, message)
