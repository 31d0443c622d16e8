"""``route_trace v1``: one turn's prompt is one step, and what is odd in a file is said with its line."""

from collections import OrderedDict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.traces.importers.imported import Imported, refuse, take
from traces import Trace, UserError, open_trace
from traces.importers import Options, assign_splits
from traces.importers.route_trace import import_trace

HEAD = [
    "# route_trace v1",
    "# model=/data/my models/tiny-Q4.gguf arch=x n_layer=2 n_expert=8 n_expert_used=2",
    "# layer=0 expert_bytes=100 dense_bytes=5",
    "# layer=1 expert_bytes=200 dense_bytes=5",
    "turn,phase,step,layer,slot,expert,weight,residency,expert_bytes",
]


def rows(turn: int) -> list[str]:
    """Two prompt tokens, of which layer 1 sees the last; two decode tokens. The file goes layer by layer."""
    size = {0: 100, 1: 200}
    places = [(0, 0, 0), (0, 1, 0), (0, 1, 1), (1, 2, 0), (1, 2, 1), (1, 3, 0), (1, 3, 1)]
    return [
        f"{turn},{phase},{step},{layer},{slot},{(step + slot + turn) % 8},{weight},0,{size[layer]}"
        for phase, step, layer in places
        for slot, weight in ((0, 0.25), (1, 0.75))
    ]


def imported(folder: Path, lines: list[str], own: dict[str, Any] | None = None, **options: Any) -> Imported:
    return take(folder, "route_trace", lines, Options(**options), **(own or {}))


def test_columns_go_by_name(tmp_path: Path) -> None:
    """Later versions append columns, and a consumer may drop those that it need not have."""
    body = [line.replace(",0,100", ",2,0") for line in rows(0)]  # residency 2: the first use of a prefetched expert
    expected = imported(tmp_path, [*HEAD, *body]).trace
    order = [5, 0, 1, 2, 4, 3, 6]
    names = HEAD[4].split(",")
    turned = [",".join(line.split(",")[index] for index in order) for line in rows(0)]
    trace, _ = imported(tmp_path, [*HEAD[:4], ",".join(names[index] for index in order), *turned])
    np.testing.assert_array_equal(trace.expert_ids, expected.expert_ids)
    assert trace.steps.tolist() == expected.steps.tolist()


def test_what_the_device_dropped_stays_unless_it_is_left_out(tmp_path: Path) -> None:
    head = [*HEAD[:4], HEAD[4] + ",dropped"]
    body = [f"{line},{int(line.split(',')[4] == '0' and line.startswith('0,1'))}" for line in rows(0)]
    trace, notes = imported(tmp_path, [*head, *body])
    assert trace.expert_ids[2].tolist() == [[3, 2], [3, 2]]
    assert any("4 experts that the device dropped" in note and "dropped=absent" in note for note in notes)
    trace, _ = imported(tmp_path, [*head, *body], own={"dropped": "absent"})
    assert trace.expert_ids[2].tolist() == [[3, 255], [3, 255]]
    assert trace.expert_weights is not None
    assert trace.expert_weights[2].tolist() == [[0.75, 0], [0.75, 0]]
    assert trace.manifest.decoding["dropped"] == "absent"


@pytest.mark.parametrize("all_of_them", [True, False])
def test_without_weights_the_slots_stay_in_their_order(tmp_path: Path, all_of_them: bool) -> None:
    body = [line.replace(",0.25,", ",nan,") for line in rows(0)]
    body = [line.replace(",0.75,", ",nan,") for line in body] if all_of_them else body
    trace, notes = imported(tmp_path, [*HEAD, *body])
    assert trace.expert_weights is None
    assert trace.expert_ids[2].tolist() == [[2, 3], [2, 3]]
    assert any("weights are left out" in note for note in notes)


def test_dense_layers_are_left_out_and_their_bytes_kept(tmp_path: Path) -> None:
    head = [HEAD[0], HEAD[1].replace("n_layer=2", "n_layer=3"), "# layer=0 expert_bytes=0 dense_bytes=7"]
    head += ["# layer=1 expert_bytes=100 dense_bytes=5", "# layer=2 expert_bytes=200 dense_bytes=5", HEAD[4]]
    body = [",".join([*cells[:3], str(int(cells[3]) + 1), *cells[4:]]) for cells in (r.split(",") for r in rows(0))]
    trace, notes = imported(tmp_path, [*head, *body])
    assert (trace.L, trace.manifest.model.expert_bytes) == (2, (100, 200))
    assert trace.manifest.model.dense_bytes == (7 + 5, 5), "what is read before a layer's experts"
    assert any("layer 0 of the 3 (counted from 0)" in note and "without_layers=0" in note for note in notes)
    # A layer that the file has may be left out, too, and its rows may then be missing.
    trace, _ = imported(tmp_path, [*head, *(r for r in body if ",2,0," not in r)], without_layers=frozenset({0, 2}))
    assert (trace.L, trace.manifest.model.expert_bytes) == (1, (100,))
    assert trace.manifest.model.dense_bytes == (7 + 5 + 5,), "and after the last"


def test_a_turn_may_begin_in_its_context(tmp_path: Path) -> None:
    """A step is a position: a conversation that goes on has the earlier ones in the cache, and so has decode alone."""
    later = [",".join([*cells[:2], str(int(cells[2]) + 40), *cells[3:]]) for cells in (r.split(",") for r in rows(0))]
    decode = without(rows(1), "1,0")
    trace, notes = imported(tmp_path, [*HEAD, *later, *decode])
    assert trace.steps.tolist()[:2] == [(0, 0, 0, 2, 40), (0, 1, 2, 1, 42)]
    assert trace.steps.tolist()[3:] == [(1, 1, 4, 1, 2), (1, 1, 5, 1, 3)]
    assert [request.prompt_tokens for request in trace.requests] == [42, 2]
    assert any("before the first row: 2 requests" in note for note in notes)


def test_turns_become_requests(tmp_path: Path) -> None:
    trace, _ = imported(tmp_path, [*HEAD, *rows(0), *rows(4)])
    assert (trace.L, trace.E, trace.K, trace.N) == (2, 8, 2, 8)
    assert trace.manifest.model.name == "tiny-Q4"
    assert trace.manifest.model.expert_bytes == (100, 200)
    assert trace.steps[:4].tolist() == [(0, 0, 0, 2, 0), (0, 1, 2, 1, 2), (0, 1, 3, 1, 3), (1, 0, 4, 2, 0)]
    assert [(item.prompt_tokens, item.output_tokens) for item in trace.requests] == [(2, 3), (2, 3)]
    # The file's slots rise in weight: the import turns them round.
    assert trace.expert_ids[:3].tolist() == [[[1, 0], [255, 255]], [[2, 1], [2, 1]], [[3, 2], [3, 2]]]
    assert trace.expert_weights is not None
    assert trace.expert_weights[:2].tolist() == [[[0.75, 0.25], [0, 0]], [[0.75, 0.25], [0.75, 0.25]]]
    assert [item.split for item in trace.requests] == [None, None]


def without(lines: list[str], start: str) -> list[str]:
    return [line for line in lines if not line.startswith(start)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "line 1, line is ''; allowed: # route_trace v1"),
        (["# route_trace v2"], "line 1"),
        (HEAD[:3], "line 4, line is ''; allowed: # layer=1"),
        (HEAD, "line 6, line is 'missing'"),
        ([*HEAD, "0,0,0,0,0,1,x,0,100"], "line 6"),
        ([*HEAD, "0,0,0,2,0,1,0.5,0,100"], "line 6, layer is 2; allowed: 0 to 1"),
        ([*HEAD, "0,0,0,0,2,1,0.5,0,100"], "line 6, slot is 2"),
        ([*HEAD, "0,0,0,0,0,8,0.5,0,100"], "line 6, expert is 8; allowed: 0 to 7"),
        ([*HEAD, "0,0,0,0,0,1,-0.5,0,100"], "line 6, weight"),
        ([*HEAD, "0,0,0,0,0,1,1e999,0,100"], "line 6, weight"),
        ([*HEAD, "0,0,0,0,0,1,1e,0,100"], "line 6, weight"),
        ([*HEAD, "0,0,0,0,0,1,0.5,0,99"], "line 6, expert_bytes is '99'; allowed: 0 or 100"),
        ([*HEAD, *rows(0)[:1], *rows(0)], "line 7, slot is 0; allowed: once"),
        ([*HEAD, *rows(1), *rows(0)], "turn is 0; allowed: above 1"),
        ([*HEAD, *without(rows(0), "0,0,1,")], "turn 0, step after 0 is 2; allowed: 1: positions in the context"),
        ([*HEAD, *rows(0)[1:]], "turn 0, step 0, layer 0, slot 0 is 'missing'|step 0, layer 0 is 'missing'"),
        ([*HEAD, rows(0)[0], *rows(0)[2:]], "turn 0, step 0, layer 0, slot 1 is 'missing'; allowed: every layer, and"),
        ([*HEAD, rows(0)[0][:-9]], "line 6, line is .*; the file ends in this line, and limit=N takes the N turns"),
        ([*HEAD[:4], HEAD[4] + ",gate"], "line 5, column is 'gate'; allowed: turn, phase, step, layer, slot, expert"),
        ([*HEAD[:4], HEAD[4] + ",turn"], "line 5, column is 'turn'; allowed: .*once each"),
        ([*HEAD[:4], "turn,phase,step,slot,expert"], "line 5, columns is .*allowed: layer among them"),
        (["layer,expert,count", "0,1,7"], "line 1, content is 'counts per expert, without an order'"),
        ([*HEAD[:2], HEAD[2].replace("=100", "=0"), *HEAD[3:], *rows(0)], "line 6, layer is 0; allowed: one"),
        ([*HEAD, *without(rows(0), "0,0,1,1")], "turn 0, step 1, layer 1 is 'missing'"),
        ([*HEAD, *without(rows(0), "0,0,0,0")[:-2]], "step 3, layer 1 is 'missing'"),
        ([*HEAD, *without(rows(0), "0,1,3,0")], "step 3, layer 0 is 'missing'"),
    ],
)
def test_bad_files_name_the_line(tmp_path: Path, lines: list[str], message: str) -> None:
    refuse(tmp_path, "route_trace", "\n".join(lines), message)


@pytest.mark.parametrize(
    ("requests", "split", "train"),
    [(2, "0.99", 1), (2, "0.01", 1), (10, "0.7", 7), (703, "0.7", 492), (100, "0.55", 55)],
)
def test_split_rounds_down_and_leaves_one_of_each(requests: int, split: str, train: int) -> None:
    assert assign_splits(requests, None, 0) == [None] * requests
    splits = assign_splits(requests, Fraction(split), 0)
    assert len(splits) == requests
    assert splits == assign_splits(requests, Fraction(split), 0)
    assert splits.count("train") == train
    if requests > 2:
        assert splits != assign_splits(requests, Fraction(split), 1)
    with pytest.raises(UserError, match="split: one request"):
        assign_splits(1, Fraction(split), 0)


def replay_lru(trace: Trace, capacity: int, *, last_slot_recent: bool) -> tuple[int, int]:
    """Replay a global LRU, one event per step and layer; returns hits and lookups."""
    cache: OrderedDict[tuple[int, int], None] = OrderedDict()
    hits = lookups = 0
    for step in trace.steps:
        for layer in range(trace.L):
            ids = trace.expert_ids[step["first_row"] : step["first_row"] + step["rows"], layer]
            tokens = [[int(expert) for expert in row if expert != trace.absent] for row in ids]
            demand = {expert for token in tokens for expert in token}
            hits += sum((layer, expert) in cache for expert in demand)
            lookups += len(demand)
            for token in tokens:
                for expert in token if last_slot_recent else token[::-1]:
                    cache[layer, expert] = None
                    cache.move_to_end((layer, expert))
            while len(cache) > capacity:
                cache.popitem(last=False)
    return hits, lookups


def test_the_devices_own_cache_is_reproduced(tmp_path: Path, shared_data: Path) -> None:
    source = shared_data / "route_trace" / "gptoss120b.route.csv"
    trace = open_trace(import_trace(source, tmp_path / "trace", Options()))
    assert (trace.L, trace.E, trace.K, trace.N, len(trace.steps)) == (36, 128, 2, 149, 65)
    seen = (trace.expert_ids != trace.absent).all(axis=2)
    assert np.flatnonzero(~seen[:, 35]).tolist() == list(range(84))
    assert seen[:, :35].all()
    assert trace.manifest.model.expert_bytes == (13219200,) * 36
    dense = trace.manifest.model.dense_bytes
    assert dense is not None
    assert (len(dense), sum(dense)) == (36, 828131328)
    capacity = 3000 * 2**20 // 13219200
    # The device recorded 2,066 hits of 6,375 lookups: the last slot of a token is the most recent one.
    assert replay_lru(trace, capacity, last_slot_recent=True) == (2066, 6375)
    assert replay_lru(trace, capacity, last_slot_recent=False) == (2067, 6375)
