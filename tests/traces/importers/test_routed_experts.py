"""``routed_experts`` as vLLM and SGLang return it, in every encoding, and refused where rows do not add up."""

import base64
import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.traces.importers.imported import raw_of, refuse, steps, take
from traces.format.npy import header_bytes
from traces.importers import Options

IDS = np.argsort(np.random.default_rng(0).random((7, 3, 11)), axis=-1)[..., :2]
"""4 prompt tokens, 4 generated, of which the last was never fed."""
SHAPE = {"n_layers": 3, "top_k": 2}
COUNTS = {"prompt_tokens": 4, "completion_tokens": 4}
GOOD = COUNTS | {"routed_experts": IDS.tolist()}
FIRST = IDS[:4].tolist()


def npy(ids: np.ndarray) -> str:
    stream = io.BytesIO()
    np.save(stream, ids)
    return base64.b64encode(stream.getvalue()).decode()


def bare(ids: np.ndarray) -> str:
    return base64.b64encode(ids.astype("<i4").tobytes()).decode()


ROUTED = "routed_experts"
BOMB = base64.b64encode(header_bytes(np.dtype("u1"), (10**12, 3, 2))).decode()


@pytest.mark.parametrize(
    "response",
    [
        COUNTS | {"routed_experts": IDS.tolist()},
        {"usage": COUNTS, "choices": [{"routed_experts": npy(IDS.astype("u1"))}]},
        {"prompt_tokens": 4, "cached_tokens": 0, "routed_experts": npy(IDS.astype("<i2"))},
        {"prompt_tokens": 4, "prompt_routed_experts": FIRST, "choices": [{"routed_experts": IDS[4:].tolist()}]},
        {"text": "x", "meta_info": {"prompt_tokens": 4, "completion_tokens": 4, "routed_experts": bare(IDS)}},
        {"usage": COUNTS, "choices": [{"sgl_ext": {"routed_experts": bare(IDS)}}]},
    ],
    ids=["list", "vllm", "int16", "vllm-0.21", "sglang", "sgl_ext"],
)
def test_every_form_is_the_same_trace(tmp_path: Path, response: dict[str, Any]) -> None:
    trace = take(tmp_path, ROUTED, [response, response], **SHAPE).trace
    assert (trace.L, trace.E, trace.K, trace.N) == (3, 12, 2, 14)
    assert steps(trace)[:5] == [(0, 0, 4, 0), *((0, 1, 1, context) for context in (4, 5, 6)), (1, 0, 4, 0)]
    assert (trace.requests[1].prompt_tokens, trace.requests[1].output_tokens) == (4, 4)
    # Not sorted: there is no weight to sort by.
    np.testing.assert_array_equal(trace.expert_ids, np.concatenate([IDS, IDS]))


def test_archives(tmp_path: Path) -> None:
    arrays = {"prompt_tokens": [4, 5], "a": IDS, "b": IDS[:5].astype("u1")}
    trace = take(tmp_path, ROUTED, arrays, Options(n_experts=64)).trace
    assert trace.E == 64
    assert trace.steps.tolist()[-2:] == [(0, 1, 6, 1, 6), (1, 0, 7, 5, 0)]
    assert trace.requests[1].output_tokens == 1
    np.testing.assert_array_equal(trace.expert_ids, np.concatenate([IDS, IDS[:5]]))


def test_leading_dense_layers_are_left_out(tmp_path: Path) -> None:
    padded = np.concatenate([np.zeros((7, 2, 2), int), IDS], axis=1)
    trace = take(tmp_path, ROUTED, [GOOD | {"routed_experts": padded.tolist()}], dense_layers=2).trace
    np.testing.assert_array_equal(trace.expert_ids, IDS)


@pytest.mark.parametrize(
    ("response", "message"),
    [
        ("", "content is nothing; allowed: at least one request"),
        ("[]", "content is nothing; allowed: at least one request"),
        ("{}", "line 1, keys"),
        ({"prompt_tokens": 4, "routed_experts": None}, "routed_experts, itself or in meta_info"),
        ({"routed_experts": IDS.tolist()}, "line 1, prompt_tokens is None"),
        (GOOD | {"prompt_tokens": 8}, "rows of .*prompt_tokens 8, completion_tokens 4.* is 7; allowed: 11"),
        (GOOD | {"prompt_tokens": -1}, "prompt_tokens is -1"),
        (GOOD | {"completion_tokens": 2}, "line 1, rows of .* is 7; allowed: 5: .*rows of drafts"),
        (GOOD | {"completion_tokens": 5}, "rows of .* is 7; allowed: 8: .*cached_tokens or routed_experts_start_len"),
        (GOOD | {"routed_experts_start_len": 5}, "routed_experts_start_len is 5; allowed: an integer, 0 to 4"),
        (GOOD | {"choices": [{}, {}]}, "line 1, choices"),
        (GOOD | {"routed_experts": 3}, "a list .*base64 text, or data"),
        (GOOD | {"routed_experts": []}, "start of routed_experts"),
        (GOOD | {"routed_experts": [[[1]], [[1, 2]]]}, "row 1 is .*1 layers of 1 ids"),
        (GOOD | {"routed_experts": [[[1]], 3]}, "row 1"),
        (GOOD | {"routed_experts": [[[1.0]]]}, "row 0 is 1.0"),
        (GOOD | {"routed_experts": (IDS - 2).tolist()}, "row . is -2; allowed: an integer, -1 to 65533"),
        (GOOD | {"routed_experts": npy(IDS - 2)}, r"token row \d, layer \d, slot \d is -2; allowed: 0 to"),
        (GOOD | {"routed_experts": npy(IDS * 0)}, "routed_experts is 'zeros alone'"),
        (GOOD | {"routed_experts": npy(IDS.astype("f4"))}, r"'floats \(<f4\)'; allowed: integers, little-endian"),
        (GOOD | {"routed_experts": npy(IDS[0])}, "shape of routed_experts"),
        (GOOD | {"routed_experts": npy(np.array([{}], object))}, "pickled objects are never read"),
        (GOOD | {"routed_experts": "%%%"}, "line 1, routed_experts .*allowed: base64"),
        (GOOD | {"routed_experts": "\ud800"}, "allowed: base64"),
        (GOOD | {"routed_experts": bare(IDS)[:-4]}, "bytes of routed_experts"),
        (GOOD | {"routed_experts": ""}, r"shape of routed_experts is \(0, 3, 2\)"),
        (GOOD | {"prompt_routed_experts": IDS[:3].tolist()}, "shape of prompt_routed_experts"),
        (GOOD | {"routed_experts": BOMB}, "shape of routed_experts is .1000000000000, 3, 2."),
    ],
)
def test_bad_responses_name_the_line(tmp_path: Path, response: Any, message: str) -> None:
    refuse(tmp_path, ROUTED, [response], message, **SHAPE)


def test_more_mistakes(tmp_path: Path) -> None:
    refuse(tmp_path, ROUTED, [GOOD | {"routed_experts": bare(IDS)}], "options n_layers= and top_k=")
    refuse(tmp_path, ROUTED, [GOOD], r"slot \d is \d+; allowed: 0 to 7", Options(n_experts=8))
    refuse(tmp_path, ROUTED, [GOOD], "without_layers leaves out all 3 layers", dense_layers=3)
    refuse(tmp_path, ROUTED, [GOOD], "n_layers is 2; allowed: 3, which this array has", n_layers=2)
    refuse(tmp_path, ROUTED, [GOOD], "top_k is 4; allowed: 2, which this array has", top_k=4)
    other = GOOD | {"routed_experts": IDS[:, :2].tolist()}
    refuse(tmp_path, ROUTED, [GOOD, other], "line 2: layers and k is (2, 2); allowed: (3, 2)")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": IDS}, "prompt_tokens, and one array"),
        ({"prompt_tokens": [1]}, "prompt_tokens, and one array"),
        ({"prompt_tokens": [1, 2], "a": IDS}, "prompt_tokens.npy: shape is (2,)"),
        ({"prompt_tokens": [8], "a": IDS}, "a.npy: prompt_tokens is 8"),
        ({"prompt_tokens": [4], "a": IDS[0]}, "a.npy: shape"),
    ],
)
def test_bad_archives(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    refuse(tmp_path, ROUTED, arrays, message)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    """A gigabyte of zeros packs into a megabyte; its header tells the truth about it."""
    stream = io.BytesIO(raw_of({"prompt_tokens": [1]}))
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_DEFLATED) as packed, packed.open("a.npy", "w") as member:
        member.write(header_bytes(np.dtype("u1"), (2**10, 2**10, 2**6)))
        for _ in range(64):
            member.write(bytes(2**20))
    assert len(stream.getvalue()) < 10**5
    refuse(tmp_path, ROUTED, stream.getvalue(), "a.npy: one request is '1024 tokens x 1024 layers x 64 slots'")


def test_a_list_of_members_without_end_is_not_read(tmp_path: Path) -> None:
    raw = raw_of({"prompt_tokens": [4], "a": IDS}).ljust(2**25, b"\0")
    raw += b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 9, 9, 2**25 - 100, 0, 0)
    refuse(tmp_path, ROUTED, raw, "a list of members of 33554332 bytes")
