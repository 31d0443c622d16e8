"""``.npz`` archives: streamed, never unpickled, never trusted for a size."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.traces.importers.imported import refuse, take
from traces import Trace, TraceError, open_trace
from traces.format.npy import header_bytes
from traces.importers import Options
from traces.importers.npz import import_trace

RNG = np.random.default_rng(0)
EXPERTS = np.argsort(RNG.random((6, 2, 10)), axis=-1)[..., :3].astype(np.uint8)
WEIGHTS = RNG.random((6, 2, 3)).astype(np.float16)
WRONG = EXPERTS.astype(np.int16)
WRONG[5, 1, 0] = -2
GOOD: dict[str, Any] = {
    "experts": EXPERTS,
    "weights": WEIGHTS,
    "token_ids": np.arange(6),
    "req_len": np.array([4, 2]),
    "req_offset": np.array([0, 4]),
    "req_prefill": np.array([3, 0]),
    "req_prompt_tokens_not_traced": np.array([0, 7]),
}


def taken(folder: Path, options: Options | None = None, **changes: Any) -> Trace:
    return take(folder, "npz", GOOD | changes, options).trace


def test_requests_and_phases(tmp_path: Path) -> None:
    trace = taken(tmp_path)
    assert (trace.L, trace.K, trace.N) == (2, 3, 6)
    assert -(-(int(EXPERTS.max()) + 1) // 4) * 4 == trace.E
    assert trace.steps.tolist() == [(0, 0, 0, 3, 0), (0, 1, 3, 1, 3), (1, 1, 4, 1, 7), (1, 1, 5, 1, 8)]
    assert [(item.prompt_tokens, item.output_tokens) for item in trace.requests] == [(3, 2), (7, 3)]
    order = np.argsort(-WEIGHTS, axis=-1, kind="stable")
    np.testing.assert_array_equal(trace.expert_ids, np.take_along_axis(EXPERTS, order, -1))
    np.testing.assert_array_equal(trace.expert_weights, np.take_along_axis(WEIGHTS, order, -1))
    np.testing.assert_array_equal(trace.token_ids, np.arange(6))
    assert trace.manifest.model.name == "made"


@pytest.mark.parametrize(
    "changes",
    [
        {"req_len": None, "req_decode": np.array([1, 2]), "req_offset": None},
        {"req_len": None, "req_decode": np.array([1, 2])},
        {"req_len": None},
    ],
    ids=["prefill and decode", "and offset", "offset alone"],
)
def test_lengths_come_from_what_is_there(tmp_path: Path, changes: dict[str, Any]) -> None:
    trace = taken(tmp_path, **changes)
    assert trace.steps.tolist() == [(0, 0, 0, 3, 0), (0, 1, 3, 1, 3), (1, 1, 4, 1, 7), (1, 1, 5, 1, 8)]


def test_fortran_order_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turned = {"experts": np.asfortranarray(EXPERTS), "weights": np.asfortranarray(WEIGHTS)}
    trace = taken(tmp_path, **turned)
    order = np.argsort(-WEIGHTS, axis=-1, kind="stable")
    np.testing.assert_array_equal(trace.expert_ids, np.take_along_axis(EXPERTS, order, -1))
    np.testing.assert_array_equal(trace.expert_weights, np.take_along_axis(WEIGHTS, order, -1))
    # Its rows are spread over the member, which is then in memory as a whole.
    monkeypatch.setattr("traces.importers.npz.MAX_REQUEST_IDS", 35)
    refuse(tmp_path, "npz", GOOD | turned, "experts.npy: order is 'Fortran'; allowed: C order above 35 values")


def test_minus_one_is_absent_and_layers_can_be_left_out(tmp_path: Path) -> None:
    experts = EXPERTS.astype(np.int16)
    experts[:, 1, 2] = experts[4, 1] = -1
    trace = taken(tmp_path, experts=experts, weights=None)
    assert trace.expert_ids[4, 1].tolist() == [255] * 3
    assert trace.expert_ids[0, 1].tolist() == [*EXPERTS[0, 1, :2].tolist(), 255]
    trace = taken(tmp_path, Options(without_layers=frozenset({0})), experts=experts, weights=None)
    assert (trace.L, trace.K) == (1, 2)
    np.testing.assert_array_equal(trace.expert_ids[:4, 0], EXPERTS[:4, 1, :2])


def test_options(tmp_path: Path) -> None:
    meta = tmp_path / "meta.json"
    meta.write_text(json.dumps([{"dataset": "gsm8k"}, {"dataset": "mmlu"}]))
    trace = taken(tmp_path, Options(n_experts=64, model="mine", meta=meta, limit=1))
    assert (trace.E, trace.manifest.model.name, trace.requests[0].source) == (64, "mine", "gsm8k")
    assert len(trace.requests) == 1


@pytest.mark.parametrize("text", ["[{}]", "[{}, {}]", "{", "{}", '[1, {"dataset": "x"}]', "[" * 10**5])
def test_bad_meta(tmp_path: Path, text: str) -> None:
    meta = tmp_path / "meta.json"
    meta.write_text(text)
    refuse(tmp_path, "npz", GOOD, "meta.json[:,] ", Options(meta=meta))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"experts": None}, "experts among them"),
        ({"experts": EXPERTS.astype(float)}, r"dtype is 'floats \(<f8\)'; allowed: integers, little-endian"),
        ({"experts": EXPERTS.astype(">i2")}, r"dtype is 'big-endian integers \(>i2\)'"),
        ({"experts": EXPERTS.astype(np.int16) - 2}, "request 0: experts of token row ., layer .* is -2; allowed: 0 to"),
        ({"experts": WRONG}, "request 1: experts of token row 5, layer 1, slot 0 is -2; allowed: 0 to"),
        ({"experts": EXPERTS[:, 0]}, "rows, layers, slots"),
        ({"experts": np.zeros_like(EXPERTS)}, "request 0: experts is 'zeros alone'"),
        ({"experts": np.full_like(EXPERTS, 3)}, r"row 0, layer 0 is \[3, 3, 3\]; allowed: an expert at most once"),
        ({"experts": np.array([{}], object)}, "pickled objects are never read"),
        ({"weights": WEIGHTS[:, :1]}, "as in experts"),
        ({"weights": np.full_like(WEIGHTS, np.nan)}, "weights of token row 0, layer 0, slot 0 is nan; allowed: finite"),
        ({"token_ids": np.arange(5)}, "as in experts"),
        ({"gates": EXPERTS}, "member is 'gates.npy'"),
        ({"req_len": np.array([4, 3])}, "sum of req_len is 7"),
        ({"req_len": np.array([6, 0])}, "sum of req_len is 6; .*at least 1 per request"),
        ({"req_len": np.array([7, -1])}, "value 1 is -1"),
        ({"req_len": np.array([6])}, "as in req_offset"),
        ({"req_len": None, "req_offset": None}, r"req_prefill.npy: shape is \(2,\); allowed: \(1,\): without req_len"),
        ({"req_offset": np.array([0, 3])}, "req_offset.npy: value 1 is 3"),
        ({"req_prefill": np.array([5, 0])}, "longer than its request"),
        ({"req_decode": np.array([1, 1])}, "req_len - req_prefill"),
        ({"req_prefill": None, "req_prompt_tokens_not_traced": None}, "which say where a prompt ends"),
    ],
)
def test_bad_arrays(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    refuse(tmp_path, "npz", GOOD | changes, message)


def pack(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, raw in members.items():
            archive.writestr(name, raw)
    return stream.getvalue()


def test_headers_that_claim_too_much(tmp_path: Path) -> None:
    bomb = header_bytes(np.dtype("u1"), (10**12, 24, 4)) + b"\0" * 100
    refuse(tmp_path, "npz", pack({"experts.npy": bomb}), "experts.npy: size is .* which its header claims")
    requests = np.zeros(1_000_001, np.uint8)
    refuse(tmp_path, "npz", {"experts": EXPERTS, "req_len": requests}, "1 to 1000000")


def test_files_that_are_no_archives(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="No such file"):
        import_trace(tmp_path / "x.npz", tmp_path / "trace", Options())
    refuse(tmp_path, "npz", b"hello", "readable .npz")
    refuse(tmp_path, "npz", pack({"experts.txt": b""}), "member")


def test_gpt_oss_20b(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / "traces"
    options = Options(model="gpt-oss-20b", limit=20, meta=folder / "gptoss20b_decode.meta.json.gz")
    trace = open_trace(import_trace(folder / "gptoss20b_decode.npz", tmp_path / "trace", options))
    assert (trace.L, trace.E, trace.K, len(trace.requests)) == (24, 32, 4, 20)
    assert trace.requests[0].source == "Polyglot-or-Not_Fact-Completion"
    assert (trace.requests[0].prompt_tokens, trace.requests[0].output_tokens) == (101, 512)
    with np.load(folder / "gptoss20b_decode.npz", allow_pickle=False) as archive:
        # Its slots are by descending weight already: the import changes nothing.
        np.testing.assert_array_equal(trace.expert_ids, archive["experts"][: trace.N])
        np.testing.assert_array_equal(trace.expert_weights, archive["weights"][: trace.N])
