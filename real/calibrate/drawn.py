"""A trace whose routing is drawn evenly: for measuring the runtime on other routing than what is predicted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from real.runtime.offloaded import Offloaded
from traces import DECODE, PREFILL, Prompts, Recorder, Request, TraceWriter

UNIFORM = "synthetic routing, uniform over the experts of each layer"


def write_uniform(path: Path, model: Offloaded, name: str, plans: Sequence[tuple[int, int]], seed: int) -> Path:
    """As :func:`draw`, in the shape of a model that is at hand."""
    moe = model.moe
    about = {"shapes": model.shapes, "dtype": str(model.model.dtype).removeprefix("torch.")}
    sizes = len(moe.layers), moe.n_experts, moe.top_k
    return draw(path, sizes, name, plans, seed, expert_bytes=[model.store.layout.nbytes] * sizes[0], **about)


def draw(
    path: Path, sizes: tuple[int, int, int], name: str, plans: Sequence[tuple[int, int]], seed: int, **about: Any
) -> Path:
    """Requests of (prompt tokens, decode steps), each row's K of E experts in each of L layers without replacement.

    ``sizes``: L, E, K. ``about``: what else is known of the model, as traces.format.manifest.About.
    """
    generator, (L, E, K) = np.random.default_rng(seed), sizes
    with TraceWriter(path, n_layers=L, n_experts=E, top_k=K) as out:
        for number, (prompt, decode) in enumerate(plans):
            steps = [(PREFILL, prompt, 0), *((DECODE, 1, prompt + i) for i in range(decode))]
            ids = generator.random((prompt + decode, L, E)).argsort(axis=-1)[..., :K]
            out.add_request(Request(number, prompt, decode + 1, None, None, "drawn"), steps=steps, expert_ids=ids)
        return out.close(
            name=name,
            recorder=Recorder("real calibrate", "1", None),
            decoding={"mode": "unknown", "seed": seed},
            recording="synthetic",
            prompts=Prompts("drawn", "none"),
            **about,
        )
