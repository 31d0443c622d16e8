"""``python -m real validate workload=online``: measured beside predicted; what is served are the model's answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from real.cli import main
from real.runtime.models import Where
from real.serving.loop import run_arrivals
from real.validation import plot
from real.validation.verdict import criteria
from sim.experiment.cell import make_cell, make_policy
from sim.experiment.compose import read_config
from sim.workload.online.schedule import Batch
from tests.real.validation.cases import words
from traces import open_trace


def test_what_is_served_is_printed_beside_what_was_predicted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plot, "draw", lambda document: b"")  # seconds, and tested elsewhere
    arrivals = ["workload=online", "workload.rate=100", "workload.count=4", "workload.discipline=static"]
    assert main(["validate", *words("policy=lru", "budget=40%", "logs=true", *arrivals), f"out={tmp_path}"]) == 0
    document = json.loads((tmp_path / "tiny.json").read_text())
    (row,) = document["cells"]
    served, device = row["serving"], row["device"]["serving"]
    for name in ("ttft", "queueing", "tpot", "itl", "request"):
        it = served["figures"][name]
        assert it["device"] == device["latency_ms"][name]["mean"]
        assert it["simulated"] == row["simulated"]["serving"]["latency_ms"][name]["mean"]
        assert it["of_its_batches"] == row["of_its_batches"]["serving"]["latency_ms"][name]["mean"]
        assert it["error"] == pytest.approx(1 - it["simulated"] / it["device"])
    passes = row["of_its_batches"]["serving"]["passes"]["decode"]
    assert served["figures"]["decode_pass"]["of_its_batches"] == passes["ns"] / passes["count"] / 1e6
    assert passes["count"] == device["passes"]["decode"]["count"]
    assert served["same_batches"] == (device["schedule_digest"] == row["simulated"]["serving"]["schedule_digest"])
    assert row["of_its_batches"]["serving"]["schedule_digest"] == device["schedule_digest"]
    assert [row["errors"][f"hit_{name}"]["error"] for name in ("resident", "complete", "bytes")] == [0, 0, 0]
    assert row["replay"]["agrees"]
    assert row["replay"]["accounts_agree"]
    assert [it["holds"] for it in criteria([row])] == [None, None, None, True, None, None, None]
    assert [it["of"] for it in row["first_differences"]] in ([], ["facts"]), (
        "the copies of its batches are the device's"
    )
    page, shown = (tmp_path / "tiny.md").read_text(), " ".join(capsys.readouterr().out.split())
    assert "; poisson 100/s, static" in page
    assert page.count("| lru | 40% | poisson 100/s, static | 4 | ") == 8
    assert all(name in shown for name in ("TTFT, ms", "queueing, ms", "TPOT, ms", "tokens/s"))
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {"tiny-lru-40_-poisson_100_s_static"}
    assert str(tmp_path.parent) not in json.dumps(document)


@pytest.mark.ci  # a model of 16 layers generates
def test_a_model_that_is_served_its_own_answers_says_them_again(tmp_path: Path) -> None:
    own = ["policy=lru", "budget=50%", "threads=1", "device=cpu", "max_new_tokens=6"]
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "The firewall decides"}\n{"prompt": "def main"}\n')
    assert main(["run", *own, f"prompts={tmp_path}/prompts.jsonl", f"out={tmp_path}/out"]) == 0
    (folder,) = (tmp_path / "out").iterdir()
    trace = open_trace(folder / "trace")
    online = ["workload=online", "workload.rate=100", "workload.count=4", "workload.max_num_batched_tokens=4"]
    more = ["workload.max_num_seqs=3", "bounds=false", "model=tiny-moe", "budget=25%", "policy=lfu"]
    cell = make_cell(read_config([f"trace={folder}/trace", *online, *more]))
    said: dict[int, list[int]] = {}

    def take(batch: Batch, chosen: Any) -> None:
        for share, token in zip(batch.shares, chosen.tolist(), strict=True):
            if share.yields:
                said.setdefault(share.id, []).append(token)

    run_arrivals(cell, Where("cpu").open("tiny-moe", "float32", "auto"), make_policy(cell), take)
    assert cell.traffic is not None
    assert trace.token_ids is not None
    for arrival in cell.traffic.arrivals:
        first = int(trace.steps[trace.steps_of(arrival.request)]["first_row"][0])
        inputs = trace.token_ids[first + arrival.prompt_tokens : first + arrival.tokens].tolist()
        assert said[arrival.id][:-1] == inputs
        assert len(inputs) == 5
