"""What a run says of arrivals, and of keys that mean nothing where they are given."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.cli import main
from sim.experiment.cell import make_cell, make_policy
from sim.experiment.compose import read_config
from sim.experiment.provenance import identify
from sim.experiment.run import run_config, simulate
from sim.results.table import show
from tests.sim.experiment.serving import serving
from tests.sim.saying import printed
from tests.sim.small_trace import MACHINE, Plan, config, write
from traces import Trace
from traces.kit.errors import UserError
from traces.kit.units import figure


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """Four requests, one of which was recorded with its prompt in two passes, and is in the train split."""
    plans = [Plan((4,), 3), Plan((5,), 5), Plan((2, 3), 2, split="train"), Plan((7,), 2)]
    ids = np.argsort(np.random.default_rng(7).random((sum(plan.rows for plan in plans), 2, 8)), axis=-1)[..., :2]
    return write(tmp_path_factory.mktemp("words") / "t", plans, ids, n_experts=8)


def test_the_first_line_is_what_a_user_of_a_server_feels_and_arrivals_are_called_so(
    trace: Trace, tmp_path: Path
) -> None:
    given = serving(trace, 5 * 12, workload={"rate": 4_000_000, "count": 7, "slo": "ttft<=1us"})
    found = run_config(given, tmp_path).document
    page = printed(show, found, 120)
    ttft, tpot = (figure(found["serving"]["latency_ms"][name]["mean"]) for name in ("ttft", "tpot"))
    assert page[0].startswith(f"lru at 60 B: TTFT {ttft} ms, TPOT {tpot} ms; ")
    assert page[0].endswith(f"{figure(found['serving']['goodput_per_s'])} within ttft<=1us")
    assert any(line.startswith("7 arrivals of 3 requests (the test split), each up to 3 times: ") for line in page)
    assert not any("ms per token" in line or "7 requests (" in line for line in page)
    computes = 100 * found["totals"]["compute_ns"] / found["totals"]["wall_ns"]
    assert any(f"the GPU computes {computes:.1f}" in line for line in page)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "workload=online workload.rate=1 workload.batch=2",
            "workload.batch=2: of workload=closed_loop, and this is"
            " workload=online; those that run at a time are workload.max_num_seqs",
        ),
        (
            "workload.rate=2",
            "workload.rate=2: of workload=online, and this is workload=closed_loop; allowed here: name",
        ),
    ],
)
def test_a_key_of_another_workload_is_said_to_be_one(words: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        read_config(words.split())
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_placement_without_effect_is_said_to_be_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sim.experiment.run.run_config", lambda *_: 1 / 0)
    for words, line in (
        ("placement=layers", "placement=layers: without effect, as hardware.gpus=1\n"),
        ("chunks=1", ""),
    ):
        with pytest.raises(ZeroDivisionError):
            main(["run", words])
        assert capsys.readouterr().err == line


def test_an_order_of_passes_that_orders_nothing_is_the_same_run(trace: Trace) -> None:
    """Prompts of a single pass have no order; in chunks, or as recorded in several passes, they have one."""

    def cell(order: str, chunk: int | None = None, **more: Any) -> Any:
        base = config(trace, 5 * 12, hardware=MACHINE, **more)
        return make_cell(replace(base, workload={**base.workload, "prefill_order": order, "prefill_chunk": chunk}))

    plain, ordered = cell("chunk_major"), cell("layer_major")
    assert identify(plain, ()).key == identify(ordered, ()).key
    ours, theirs = (simulate(it, make_policy(it)) for it in (plain, ordered))
    assert (ours.accounts, ours.core.digest()) == (theirs.accounts, theirs.core.digest())
    assert identify(cell("chunk_major", 7), ()).key == identify(cell("layer_major", 7), ()).key
    assert identify(cell("chunk_major", 6), ()).key != identify(cell("layer_major", 6), ()).key
    online = {"rate": 1, "max_num_seqs": 1, "max_num_batched_tokens": 10}

    def arriving(**more: Any) -> str:
        return identify(make_cell(serving(trace, 5 * 12, workload=online | more)), ()).key

    without = serving(trace, 5 * 12, workload=online)
    usual = arriving()
    old = replace(without, workload={k: v for k, v in without.workload.items() if k != "prefill_order"})
    assert usual == identify(make_cell(old), ()).key, "configurations from before there was an order"
    assert usual != arriving(prefill_order="layer_major")
    uncut = {"enable_chunked_prefill": False}
    assert arriving(**uncut) == arriving(**uncut, prefill_order="layer_major")
    cut = uncut | {"long_prefill_token_threshold": 3}
    assert arriving(**cut) != arriving(**cut, prefill_order="layer_major")
    of_all = {"measure": "test", "warmup": 0}
    assert identify(cell("chunk_major", 4, **of_all), ()).key != identify(cell("layer_major", 4, **of_all), ()).key
