"""The shape and the content of the small traces that these tests write."""

from typing import Any

import numpy as np

from traces import Prompts, Recorder

L, E, K, A = 3, 8, 2, 2
MANIFEST: dict[str, Any] = {
    "name": "tiny",
    "recorder": Recorder("test", "1", None),
    "decoding": {"mode": "greedy", "max_new_tokens": 3},
    "recording": "synthetic",
    "prompts": Prompts("made up", "CC0"),
    "expert_bytes": [10, 20, 30],
    "scoring": "softmax",
}
SIGNALS = {
    "expert_weights": (L, K),
    "router_probs": (L, E),
    "router_choice": (L, E),
    "gate_ahead": (L, A, K),
    "hidden": (L, 4),
    "embedding": (5,),
    "token_ids": (),
}


def draw(rng: np.random.Generator, rows: int, absent: int) -> dict[str, np.ndarray]:
    """Draw ``rows`` valid rows of every signal."""
    ahead = np.argsort(rng.random((rows, L, A, E)), axis=-1)[..., :K]
    for layer in range(L):
        ahead[:, layer, max(0, L - 1 - layer) :] = absent
    return {
        "expert_ids": np.argsort(rng.random((rows, L, E)), axis=-1)[..., :K],
        "expert_weights": -np.sort(-rng.random((rows, L, K))),
        "router_probs": rng.random((rows, L, E)),
        "router_choice": rng.normal(size=(rows, L, E)),
        "gate_ahead": ahead,
        "hidden": rng.normal(size=(rows, L, 4)),
        "embedding": rng.normal(size=(rows, 5)),
        "token_ids": rng.integers(0, 1000, rows),
    }
