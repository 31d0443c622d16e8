"""Files that are nearly right: -1 that wrapped around, padding, a writer at work."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.traces.importers.imported import ids, raw_of, refuse, steps, take
from traces import UserError
from traces.cli import main
from traces.importers import Options, build
from traces.importers.cli import importers

ROWS = np.argsort(np.random.default_rng(2).random((9, 3, 15)), axis=-1)[..., :2] + 1
"""4 tokens of a prompt, 5 decode passes; 3 layers, top-2, no expert 0."""


def lines(rows: Any, request: int = 0) -> list[dict[str, Any]]:
    """The rows as JSON Lines of a hook."""
    return [
        {"request": request, "phase": "prefill" if token < 4 else "decode", "token": token, "layer": layer, "ids": one}
        for token, row in enumerate(np.asarray(rows).tolist())
        for layer, one in enumerate(row)
    ]


def test_a_hook_writes_minus_one_and_zeros_as_servers_do(tmp_path: Path) -> None:
    rows = ROWS.copy()
    rows[:2], rows[5, 1], rows[6, 2, 1] = 0, -1, -1
    trace = take(tmp_path, "jsonl", lines(rows)).trace
    assert ids(trace) == rows[2:].tolist()
    assert steps(trace)[:2] == [(0, 0, 2, 2), (0, 1, 1, 4)]
    rows[:4] = 0
    refuse(tmp_path, "jsonl", lines(rows), "zeros alone in all 4 rows: not recorded")
    refuse(tmp_path, "jsonl", lines(np.full_like(ROWS, -1)), "no token has an expert")


def test_a_cached_prefix_of_minus_one_in_layers_of_zeros(tmp_path: Path) -> None:
    rows = ROWS.copy()
    rows[:, 1] = 0
    rows[:2] = -1
    archive = {"experts": rows, "req_prefill": [4]}
    refuse(tmp_path, "npz", archive, "layer 1 (counted from 0): zeros alone")
    trace = take(tmp_path, "npz", archive, Options(without_layers=frozenset({1}))).trace
    assert ids(trace) == ROWS[2:][:, [0, 2]].tolist()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("top_k", [1, 2])
def test_minus_one_that_became_the_largest_of_its_dtype(tmp_path: Path, dtype: Any, top_k: int) -> None:
    prefix, layer = ROWS[..., :top_k].astype(dtype), ROWS[..., :top_k].astype(dtype)
    prefix[:3] = layer[:, 1] = np.iinfo(dtype).max
    for rows in (prefix, layer):
        message = f"in every slot is -1 in {np.dtype(dtype)}"
        refuse(tmp_path, "npz", {"experts": rows, "req_prefill": [4]}, message)
    # Left out by the user, the layer does not matter.
    without = Options(without_layers=frozenset({1}))
    assert take(tmp_path, "npz", {"experts": layer, "req_prefill": [4]}, without).trace.L == 2


def test_an_expert_255_of_256_is_one(tmp_path: Path) -> None:
    rows = ROWS[..., :1].astype(np.uint8)
    rows[:3] = 255
    trace = take(tmp_path, "npz", {"experts": rows, "req_prefill": [4]}, Options(n_experts=256)).trace
    assert ids(trace) == rows.tolist()
    two = ROWS.astype(np.uint8)
    two[4, 1, 0] = 255
    assert ids(take(tmp_path, "npz", {"experts": two, "req_prefill": [4]}).trace) == two.tolist()


def test_a_dtype_that_ends_below_e_is_refused_whatever_is_left_out(tmp_path: Path) -> None:
    archive = {"experts": ROWS.astype(np.uint8), "req_prefill": [4]}
    options = Options(n_experts=300, without_layers=frozenset({0}))
    refuse(tmp_path, "npz", archive, "dtype of experts is 'uint8, which ends at 255'; allowed: ids to 299", options)


Between = Callable[[Path, bytes], None]


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Between:
    """Write to a file between its two readings."""

    def write(file: Path, content: bytes) -> None:
        kept = build._kept
        monkeypatch.setattr(build, "_kept", lambda *args: (file.write_bytes(content), kept(*args))[1])

    return write


@pytest.mark.parametrize(
    "later",
    [
        lines(ROWS) + lines(ROWS, request=1),
        lines(np.concatenate([ROWS, ROWS[:1]])),
        lines(np.concatenate([ROWS, ROWS], axis=1)),
        lines(np.concatenate([ROWS, ROWS + 20], axis=2)),
        lines(ROWS + 40),
    ],
    ids=["a request more", "a token more", "more layers", "more experts a token", "other ids"],
)
def test_a_file_that_is_still_written_to(tmp_path: Path, between: Between, later: list[Any]) -> None:
    between(tmp_path / "made.file", raw_of(later))
    refuse(tmp_path, "jsonl", lines(ROWS), "content is 'changed while it was read'")


def beyond(prompts: int, k: int = 2, layers: int = 2) -> str:
    """A CSV of MoE-Beyond with so many prompts of one token."""
    ids = list(range(k))
    rows = "".join(f'{layer},0,x,"{ids}"\n' for layer in range(layers))
    return ("Layer ID,Batch Number,Token,Activated Expert IDs\n" + rows) * prompts


def test_a_folder_may_hold_the_trace_that_is_made_of_it(tmp_path: Path) -> None:
    (tmp_path / "prompt_1.csv").write_text(beyond(2))
    assert main(["import", "moe_beyond", str(tmp_path), str(tmp_path / "trace")]) == 0


@pytest.mark.parametrize("later", [beyond(3), beyond(1), beyond(2, k=4), beyond(2, layers=3)])
def test_a_folder_that_is_still_written_to(tmp_path: Path, between: Between, later: str) -> None:
    (tmp_path / "prompt_1.csv").write_text(beyond(2))
    between(tmp_path / "prompt_1.csv", later.encode())
    with pytest.raises(UserError, match="content is 'changed while it was read'"):
        importers()["moe_beyond"].run(tmp_path, tmp_path / "trace", Options())
