"""A recording that says what its device did and how long it took: gpt-oss-120b on a telephone, served from flash.

The figures of the machine are the recording's own, or its makers' (github.com/Helldez/BigMoeOnEdge), and none was
chosen for the sake of the answer: 4 lanes (``--io-threads 4``, docs/bench-data/2026-07-15-route-trace/findings.md), an
expert in three reads (gate, up and down: docs/telemetry.md, io-trace), a lane's rate from the bytes read and the sum of
the lanes' busy time (``io_ms`` under ``--overlap``, the same page). What the device says of itself beside its reads is
given, not predicted: compute, here as the rate at which all weights of a token are read, and the cache's management,
here as software per layer. Compute is the rest of the recorded time, so what is tried is the waiting for reads alone.
"""

import csv
from pathlib import Path

import pytest
import yaml

from sim.experiment.run import run
from traces import open_trace
from traces.importers import Options, route_trace

RECORDING = Path(__file__).parents[3] / "shared" / "data" / "route_trace"


@pytest.mark.skipif(not RECORDING.exists(), reason="the public recording is not beside this checkout")
def test_the_time_per_token_of_a_phone(tmp_path: Path) -> None:
    lines = (RECORDING / "gptoss120b.metrics").read_text().splitlines()
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))

    def per_token(column: str) -> float:
        return sum(float(row[column]) for row in rows) / len(rows)

    folder = route_trace.import_trace(RECORDING / "gptoss120b.route.csv", tmp_path / "trace", Options())
    model = open_trace(folder).manifest.model
    assert model.expert_bytes is not None
    assert model.dense_bytes is not None
    read = sum(model.dense_bytes) + model.top_k * sum(model.expert_bytes)
    hardware = {
        "name": "phone",
        "provenance": "published",
        "sources": dict.fromkeys(
            ("memory_bytes", "hbm_gb_per_s", "tflops", "launch_us", "h2d_gb_per_s", "overhead_us"), "the recording"
        ),
        "gpu": {
            "memory_bytes": 12 * 10**9,
            "hbm_gb_per_s": read / per_token("compute_ms") / 1e6,
            "tflops": {"bfloat16": 1},
            "launch_us": 0,
            "efficiency": {"flops": 1, "hbm": 1},
        },
        "link": {
            "h2d_gb_per_s": per_token("read_bytes") / per_token("io_ms") / 1e6,
            "overhead_us": 0,
            "depth": 1,
            "lanes": 4,
        },
        "host": {"predictor_threads": 1},
        "software": {"layer_overhead_us": 1000 * per_token("mgmt_ms") / model.n_layers},
    }
    file = tmp_path / "phone.yaml"
    file.write_text(yaml.safe_dump(hardware))
    words = (f"trace={folder}", f"hardware={file}", "policy=lru", "budget=3000MiB", "chunks=3", "bounds=false")
    result = run(*words, out=tmp_path / "out").document
    assert result["totals"]["complete_hits"] == 2066, "as the device recorded"
    recorded, predicted = per_token("wall_ms"), result["latency_ms"]["tpot"]["mean"]
    assert recorded == pytest.approx(1988.28, abs=0.01)
    assert predicted == pytest.approx(1868.2, abs=0.1), "6.0 % too short"
