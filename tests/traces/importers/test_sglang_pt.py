"""SGLang's recordings: read by torch in a process with limits, requests told apart by positions, or refused."""

import io
import os
import random
import subprocess
import sys
import zipfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from tests.traces.importers.imported import ids, refuse, steps, take
from traces import TraceError
from traces.importers import Options, sglang_pt, torch_child
from traces.importers.sglang_batches import Batches

torch = pytest.importorskip("torch")

LAYERS, SLOTS, EXPERTS = 3, 8, 6
"""Layer 0 is dense; a token has 2 of 8 slots."""
MAP = [[5, 4, 3, 2, 1, 0, 2]] * LAYERS
"""Expert 2 has a replica."""


def record(
    number: int, mode: int, positions: list[int], lengths: list[int] | None = None, **more: Any
) -> dict[str, Any]:
    """One forward pass; experts are drawn by its number."""
    rng = random.Random(number)
    ids = [
        [[-1] * SLOTS if layer == 0 else rng.sample(range(EXPERTS), 2) + [-1] * (SLOTS - 2) for _ in positions]
        for layer in range(LAYERS)
    ]
    return {
        "forward_pass_id": number,
        "rank": 0,
        "gatherer_key": "primary",
        "input_ids": [100 + position for position in positions],
        "positions": positions,
        "extend_seq_lens": lengths,
        "forward_mode": mode,
        "topk_ids_of_layer": torch.tensor(ids, dtype=torch.int32).reshape(LAYERS, len(positions), SLOTS),
        "misc_objects": [],
        "global_physical_count": torch.zeros(LAYERS, len(MAP[0]), dtype=torch.int32),
        **more,
    }


def saved(content: Any) -> bytes:
    """Return what torch.save writes."""
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def recording(*records: dict[str, Any], **more: Any) -> bytes:
    """Return a file of mode per_token."""
    return saved({"records": list(records), "last_physical_to_logical_map": torch.tensor(MAP), **more})


def here(source: Path, folder: Path) -> str:
    """Stands in for sglang_pt.spawn: the same program in this process, which has torch already, and without limits."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as said:
        patch.setattr(torch_child, "limit", lambda _: None)
        torch_child.run(source, folder)
    return said.getvalue().splitlines()[-1]


EXTEND, DECODE, MIXED, IDLE, VERIFY = 1, 2, 3, 4, 5
# Two prompts in one pass; two decode passes; a prompt in two chunks; the first and the third decode, then the third.
PASSES: list[tuple[int, list[int], list[int] | None]] = [
    (EXTEND, [0, 1, 2, 0, 1], [3, 2]),
    (DECODE, [3, 2], None),
    (IDLE, [], None),
    (DECODE, [4, 3], None),
    (EXTEND, [0, 1, 2, 3], [4]),
    (EXTEND, [4, 5], [2]),
    (DECODE, [5, 6], None),
    (DECODE, [7], None),
]
BEGUN = (EXTEND, [0, 1], [2])
RECORDS = [record(number, mode, positions, lengths) for number, (mode, positions, lengths) in enumerate(PASSES)]
FILE = recording(*RECORDS)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sglang_pt, "spawn", here)


def test_a_recording_by_torch_in_its_own_process(tmp_path: Path) -> None:
    found = take(tmp_path, "sglang_pt", FILE, Options(limit=1))
    assert steps(found.trace) == [(0, 0, 3, 0), (0, 1, 1, 3), (0, 1, 1, 4), (0, 1, 1, 5)]
    assert list(found.trace.path.parent.iterdir()) == [found.trace.path]


def test_requests_ids_and_tokens(fast: None, tmp_path: Path) -> None:
    found = take(tmp_path, "sglang_pt", FILE)
    trace = found.trace
    assert (trace.L, trace.E, trace.K) == (2, 6, 2)
    assert steps(trace) == [
        *[(0, 0, 3, 0), (0, 1, 1, 3), (0, 1, 1, 4), (0, 1, 1, 5)],
        *[(1, 0, 2, 0), (1, 1, 1, 2), (1, 1, 1, 3)],
        *[(2, 0, 4, 0), (2, 0, 2, 4), (2, 1, 1, 6), (2, 1, 1, 7)],
    ]
    assert trace.token_ids is not None
    assert trace.token_ids.tolist() == [100 + x for x in (*range(6), *range(4), *range(8))]
    rows = [(0, 0), (0, 1), (0, 2), (1, 0), (3, 0), (6, 0), (0, 3), (0, 4), (1, 1), (3, 1)]
    rows += [*((4, row) for row in range(4)), (5, 0), (5, 1), (6, 1), (7, 0)]
    physical = [RECORDS[one]["topk_ids_of_layer"][1:, row, :2].tolist() for one, row in rows]
    assert ids(trace) == [[[MAP[0][x] for x in slots] for slots in layers] for layers in physical]
    said = "\n".join(found.notes)
    for part in ("6 experts per layer: the logical ones of 7 physical", "layer 0 of the 3", "prompts, in 4 passes"):
        assert part in said


def test_replicas_are_one_expert(fast: None, tmp_path: Path) -> None:
    one = record(0, EXTEND, [0], [1])
    one["topk_ids_of_layer"][1:, 0, :2] = torch.tensor([6, 0])
    assert ids(take(tmp_path, "sglang_pt", recording(one)).trace) == [[[2, 5], [2, 5]]]


def of(*passes: tuple[int, list[int], list[int] | None]) -> list[tuple[int, list[int], list[int]]]:
    """Start, prompt passes and rows of each request of these passes."""
    batches, row = Batches("file"), 0
    for number, (mode, positions, lengths) in enumerate(passes):
        batches.add(f"records[{number}]", mode, positions, row, lengths)
        row += len(positions)
    return [(session.start, session.chunks, session.rows.tolist()) for session in batches.sessions]


def test_who_goes_on() -> None:
    assert of(*PASSES)[0] == (0, [3], [0, 1, 2, 5, 7, 15])
    # Equal positions: order tells, as long as both stay, or one between them does.
    twins = (EXTEND, [0, 1, 0, 1], [2, 2])
    assert of(twins, (DECODE, [2, 2], None)) == [(0, [2], [0, 1, 4]), (0, [2], [2, 3, 5])]
    three = (EXTEND, [0, 1, 0, 1, 2, 0, 1], [2, 3, 2])
    assert of(three, (DECODE, [3, 2], None)) == [(0, [2], [0, 1]), (0, [3], [2, 3, 4, 7]), (0, [2], [5, 6, 8])]
    # A recording that begins while two requests run, of which one goes on; a cached prefix; retraction to the back.
    middle = (DECODE, [7, 40], None)
    assert of(middle, (EXTEND, [16, 17], [2]), (DECODE, [41, 18], None)) == [
        *[(7, [], [0]), (40, [], [1, 4])],
        (16, [2], [2, 3, 5]),
    ]
    assert of((EXTEND, [16, 17], [2]), (DECODE, [7, 18], None)) == [(16, [2], [0, 1, 3]), (7, [], [2])]
    assert of(middle, (DECODE, [41, 8], None)) == [(7, [], [0, 3]), (40, [], [1, 2])]


@pytest.mark.parametrize(
    ("passes", "message"),
    [
        ([(EXTEND, [0, 1, 0, 1], [2, 2]), (DECODE, [2], None)], r"records\[1\].positions is \[2\].*more than one way"),
        ([BEGUN, (DECODE, [2], None), (DECODE, [4], None)], r"records\[2\].positions is \[4\].*continue"),
        ([(DECODE, [5, 5], None), (DECODE, [6], None)], "fit in more than one way"),
        ([BEGUN, (DECODE, [2, 0, 0], None)], r"records\[1\]\.positions is '0 in a decode pass'.*padding"),
        ([(EXTEND, [0, 2], [2])], r"records\[0\].positions of sequence 0 is 'with gaps'"),
        ([(EXTEND, [0, 1], [1])], r"extend_seq_lens is \[1\]; allowed: rows of each sequence, 2 in all"),
        ([(EXTEND, [0, 1], None)], r"extend_seq_lens is None"),
        ([(EXTEND, [0, 1], [2, 0])], r"extend_seq_lens is \[2, 0\]"),
        ([(MIXED, [0, 1], [1, 1])], r"forward_mode is 3; .*enable-mixed-chunk"),
        ([(VERIFY, [0, 1], None)], r"forward_mode is 5; .*speculative decoding"),
        ([(IDLE, [0], None)], r"forward_mode is 4"),
        ([(DECODE, [], None)], r"forward_mode is 2"),
    ],
)
def test_passes_that_do_not_tell(passes: list[Any], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        of(*passes)


def changed(**more: Any) -> bytes:
    return recording({**RECORDS[0], **more})


def mapped(table: Any) -> bytes:
    return recording(RECORDS[0], last_physical_to_logical_map=table)


class Evil:
    """A pickle that would run a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("exit 3",)


def nested() -> list[Any]:
    inside: list[Any] = []
    for _ in range(60):
        inside = [inside, inside]
    return inside


IDS = RECORDS[0]["topk_ids_of_layer"]
SMALLER = {**RECORDS[1], "topk_ids_of_layer": RECORDS[1]["topk_ids_of_layer"][:2]}
SPREAD = torch.zeros(1, dtype=torch.int32).as_strided((3, 10**9, 8), (0, 0, 0))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "first bytes is b''; allowed: those of a file that torch.save wrote"),
        (FILE[:-30], "allowed: a readable .pt archive"),
        (saved({"records": [Evil()]}), "UnpicklingError: Trying to load unsupported GLOBAL posix.system"),
        (saved([1]), "content is 'list'; allowed: a dict with records"),
        (saved({"logical_count": torch.zeros(2, 3, 6)}), "logical_count (mode stat) is 'counts'; allowed: the"),
        (recording(), "records is 'an empty list'"),
        (saved({"records": nested()}), "records is 'list'; allowed: a list of dicts"),
        (recording({"global_physical_count": torch.zeros(3, 6)}), "global_physical_count (mode per_pass) is 'counts'"),
        (recording({"topk_ids_of_layer": IDS}), "records[0].input_ids is 'missing'"),
        (changed(gatherer_key="child_a"), "records[0].gatherer_key is 'child_a'; allowed: primary"),
        (changed(topk_ids_of_layer=[1]), "records[0].topk_ids_of_layer is 'list'; allowed: a tensor"),
        (changed(topk_ids_of_layer=IDS.float()), "kind of records[0].topk_ids_of_layer is 'torch.float32"),
        (changed(topk_ids_of_layer=IDS[0]), "shape of records[0].topk_ids_of_layer is '(5, 8)'; allowed: 3 axes"),
        (changed(topk_ids_of_layer=IDS.to_sparse()), "kind of records[0].topk_ids_of_layer"),
        (changed(topk_ids_of_layer=SPREAD), "is '(3, 1000000000, 8)'; allowed: as many values as its storage has"),
        (changed(topk_ids_of_layer=IDS - 9), "records[0].topk_ids_of_layer is '-10 to -4'; allowed: -1 to 65534"),
        (changed(topk_ids_of_layer=IDS + 7), "largest id of topk_ids_of_layer is 12; allowed: below 7, the physical"),
        (changed(input_ids=[1]), "length of records[0].input_ids is '1'; allowed: 5"),
        (changed(input_ids=[1, 2, 3, 4, True]), "records[0].input_ids is 'True'; allowed: an integer"),
        (changed(positions=[0, 1, 2, 0, 2**31]), "records[0].positions is '2147483648'"),
        (changed(extend_seq_lens="12"), "records[0].extend_seq_lens is '12'; allowed: a list of integers"),
        (changed(forward_mode=None), "records[0].forward_mode is 'None'"),
        (recording(RECORDS[0], {**RECORDS[1], "rank": 1}), "rank of the records is [0, 1]; allowed: one"),
        (recording(RECORDS[0], SMALLER), "records[1].topk_ids_of_layer is '2 layers, 8 slots'; allowed: (3, 8), as"),
        (recording(RECORDS[2]), "records is '1 passes without tokens'"),
        (mapped(None), "last_physical_to_logical_map is 'NoneType'"),
        (mapped(torch.tensor(MAP[:2])), "is (2, 7); allowed: (3, experts)"),
        (mapped(torch.tensor(MAP) - 1), "is '-1 to 4'; allowed: 0 to 65533"),
        (mapped(torch.tensor(MAP) // 3), "allowed: an expert at most once"),
    ],
)
def test_files_that_are_refused(fast: None, tmp_path: Path, content: bytes, message: str) -> None:
    refuse(tmp_path, "sglang_pt", content, message)


def rezipped(change: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(FILE)) as old, zipfile.ZipFile(stream, "w", compression) as new:
        for member in old.infolist():
            suffix = member.filename.partition("/")[2]
            new.writestr(member.filename, change.get(suffix, old.read(member)))
    return stream.getvalue()


def test_archives_larger_inside_than_outside(fast: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sglang_pt, "spawn", lambda *_: pytest.fail("it is refused before torch is asked"))
    bomb = rezipped({"data/0": bytes(2**24)}, zipfile.ZIP_DEFLATED)
    refuse(tmp_path, "sglang_pt", bomb, "is 8; allowed: none, no password: torch.save compresses nothing")
    # Members that share their bytes claim more than the file has.
    whole = rezipped({})
    refuse(tmp_path, "sglang_pt", _enlarged(whole), "size of all members")
    monkeypatch.setattr(sglang_pt, "MAX_PICKLE", 100)
    refuse(tmp_path, "sglang_pt", FILE, "pickled part is ['archive/data.pkl: ")


def _enlarged(raw: bytes) -> bytes:
    """Let the central directory claim a size that the file does not have."""
    at = raw.index(b"PK\1\2", raw.index(b"PK\1\2") + 4)
    return raw[: at + 24] + (2**30).to_bytes(4, "little") + raw[at + 28 :]


def test_memory_and_time_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A pickle of 512 kB whose empty lists take 32 MB and more. In a process of its own: what a large one has freed
    # and kept would hold them.
    pickled = b"\x80\x02}X\x07\x00\x00\x00records](" + b"]" * 2**19 + b"es."
    source = tmp_path / "made.file"
    source.write_bytes(rezipped({"data.pkl": pickled}))
    code = (
        "import sys; import torch; from pathlib import Path; from traces.importers import torch_child\n"
        "torch_child.HEADROOM = 2**24; torch_child.run(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, str(source), str(tmp_path)]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert "larger in memory than its size allows" in done.stdout, done.stderr
    for word in ("torch was ended by signal 9", "?"):
        monkeypatch.setattr(sglang_pt, "spawn", lambda *_, word=word: word)
        refuse(tmp_path, "sglang_pt", FILE, f"content is '{word}'; allowed: a file that torch")


def test_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sglang_pt, "find_spec", lambda _: None)
    refuse(tmp_path, "sglang_pt", FILE, "reading .pt files needs torch: pip install 'moe-offload-workbench[hf]'")


def test_the_child_imports_nothing_of_this_package() -> None:
    code = f"import runpy, sys; runpy.run_path({torch_child.__file__!r}, run_name='child'); print([*sys.modules])"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert "'traces" not in done.stdout
    assert "'torch'" not in done.stdout
