"""A profile as the calibrator writes it."""

import copy
from collections.abc import Mapping
from typing import Any

import pytest

from sim.prices import shipped

SIZES = [65_536, 131_072, 1_048_576, 12_582_912, 536_870_912]
COPY_NS = [9_000, 11_001, 31_000, 252_000, 10_700_003]
TOKENS, CONTEXTS = [1, 8, 64], [0, 512, 2048]
SHAPE = (
    *("hidden", "expert_width", "experts", "top_k"),
    *("expert_params", "attention_params", "router_params", "shared_expert_params"),
)
CURVES = (
    *("copy_h2d_pinned", "copy_h2d_pageable", "copy_d2h_pinned", "copy_d2h_pageable", "copy_h2d_call"),
    *("copy_h2d_with_d2h", "copy_d2h_with_h2d", "copy_h2d_with_compute", "copy_h2d_with_cpu_reads"),
)


def table(axes: Mapping[str, list[int]], ns: list[int]) -> dict[str, Any]:
    return {**axes, "ns": ns, "median_ns": ns, "q1_ns": ns, "q3_ns": ns, "count": [5] * len(ns)}


def olmoe_tables() -> dict[str, Any]:
    model = shipped("model", "olmoe_1b_7b")
    pairs = [(t, c) for t in TOKENS for c in CONTEXTS]
    threads = {"threads": [1, 2], "tokens": [1, 1]}
    return {
        "shape": {key: model[key] for key in SHAPE},
        "dtype": "bfloat16",
        "dense": table(
            {"tokens": [t for t, _ in pairs], "context": [c for _, c in pairs]},
            [40_000 + 300 * t + 7 * c for t, c in pairs],
        ),
        "expert": table({"tokens": [1, 2, 16, 128]}, [6_001, 6_001, 7_503, 11_000]),
        "grouped": table({"tokens": [1, 16]}, [50_000, 60_000]),
        "cpu_expert": table(threads, [900_000, 500_000]),
        "launch_ns": 4_000,
        "layer_overhead_ns": 90_000,
        "pair": {
            "expert_bytes": model["expert_params"] * 2,
            "copy": table({"threads": [1, 2]}, [252_000, 252_000]),
            "cpu": table({"threads": [1, 2]}, [900_000, 500_000]),
            "copy_with_cpu": table({"threads": [1, 2]}, [270_000, 350_000]),
            "cpu_with_copy": table({"threads": [1, 2]}, [950_000, 700_000]),
        },
    }


@pytest.fixture
def profile() -> dict[str, Any]:
    """A measured machine, by hand: an A100's constants but for the link, which is the tables'."""
    mapping: dict[str, Any] = copy.deepcopy(dict(shipped("hardware", "a100")))
    best = max(n / ns for n, ns in zip(SIZES, COPY_NS, strict=True))
    mapping |= {"name": "by_hand", "provenance": "measured"}
    mapping["link"] |= {"h2d_gb_per_s": best, "overhead_us": (COPY_NS[0] - SIZES[0] / best) / 1000}
    mapping["measured"] = {
        "date": "2026-11-20 08:00 UTC",
        "copies": "over a link of paper",
        "machine": {"device": "paper"},
        "derived": {"ns": "by hand"},
        **{name: table({"bytes": list(SIZES)}, list(COPY_NS)) for name in CURVES},
        "models": {"olmoe_1b_7b": olmoe_tables()},
    }
    return mapping
