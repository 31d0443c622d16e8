"""How good tiny-moe is, and whether its routing is learned: on held-out text, per domain.

python -m traces.tiny_moe.evaluate [model=DIR] [folder=.text] [windows=24]
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray

from traces.collect.recorder import Recorder, joined
from traces.kit.command import run_module
from traces.models.families import inspect_model
from traces.models.load import load
from traces.tiny_moe import Folder, Windows
from traces.tiny_moe.tokens import DOMAINS

LENGTH, BATCH = 256, 8


@dataclass(frozen=True)
class Options:
    """Prints how good tiny-moe is, and whether its routing is learned: on held-out text, as JSON."""

    model: Annotated[str, "tiny-moe, or its folder"] = "tiny-moe"
    folder: Folder = Path(".text")
    windows: Windows = 24


def heldout_windows(folder: Path, domain: str, windows: int) -> torch.Tensor:
    """int64 [windows, LENGTH + 1], spread evenly over the domain's held-out tokens."""
    tokens = np.load(folder / "tokens" / f"{domain}.heldout.npy", mmap_mode="r")
    starts = np.linspace(0, len(tokens) - LENGTH - 1, windows).astype(int)
    return torch.from_numpy(np.stack([tokens[s : s + LENGTH + 1].astype(np.int64) for s in starts]))


def shared(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """The share of experts in both of two choices [..., K], [...]."""
    share: NDArray[Any] = (a[..., :, None] == b[..., None, :]).any(-1).mean(-1)
    return share


def evaluate(model: Any, folder: Path, windows: int = 24) -> dict[str, Any]:
    """Held-out loss (nats per token) and routing statistics; plain numbers, rounded, ready for JSON."""
    moe = inspect_model(model)
    recorder = Recorder(moe, frozenset({"gate_ahead"}), ahead=1)
    domains: dict[str, dict[str, Any]] = {}
    with recorder.attached(), torch.inference_mode():
        for domain in DOMAINS:
            losses, parts = [], []
            for batch in torch.split(heldout_windows(folder, domain.name, windows), BATCH):
                batch = batch.to(model.device)
                logits = model(input_ids=batch[:, :-1], use_cache=False).logits.float()
                losses.append(F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].reshape(-1)).item())
                parts.append(recorder.pass_over(batch[:, :-1]))
            arrays = joined(parts)
            ids, ahead = arrays["expert_ids"], arrays["gate_ahead"]  # [n, L, K], [n, L, 1, K]
            windowed = ids.reshape(-1, LENGTH, *ids.shape[1:])
            loads = [np.bincount(layer.ravel(), minlength=moe.n_experts) for layer in ids.swapaxes(0, 1)]
            domains[domain.name] = {
                "loss": float(np.mean(losses)),
                "overlap": shared(windowed[:, 1:], windowed[:, :-1]).mean(axis=(0, 1)),  # [L]
                "next_layer_recall": shared(ahead[:, :-1, 0], ids[:, 1:]).mean(axis=0),  # [L - 1]
                "loads": np.stack(
                    [np.bincount(layer.ravel(), minlength=moe.n_experts) for layer in ids.swapaxes(0, 1)]
                ),
            }

    every = domains.values()
    loads = sum(d["loads"] for d in every)
    shares = loads / loads.sum(axis=1, keepdims=True)
    vectors = np.stack([d["loads"].ravel() / np.linalg.norm(d["loads"]) for d in every])
    pairs = (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]
    entropy = -(shares * np.log(np.maximum(shares, 1e-12))).sum(axis=1) / np.log(moe.n_experts)
    return {
        "windows_per_domain": windows,
        "window_tokens": LENGTH,
        "uniform_overlap": moe.top_k / moe.n_experts,
        "overlap_with_previous_token": rounded(np.mean([d["overlap"] for d in every])),
        "overlap_per_layer": rounded(np.mean([d["overlap"] for d in every], axis=0)),
        "next_layer_gate_recall": rounded(np.mean([d["next_layer_recall"] for d in every])),
        "popularity_cosine_between_domains": rounded(pairs.mean()),
        "load_entropy_per_layer": rounded(entropy),
        "busiest_expert_over_mean_per_layer": rounded(shares.max(axis=1) * moe.n_experts),
        "idlest_expert_over_mean_per_layer": rounded(shares.min(axis=1) * moe.n_experts),
        "domains": {
            name: {"heldout_loss": rounded(d["loss"]), "overlap": rounded(d["overlap"].mean())}
            for name, d in domains.items()
        },
    }


def rounded(value: Any) -> Any:
    """A float, or a list of floats, with three decimals."""
    return np.round(value, 3).tolist()


def main(options: Options) -> None:
    """Print the figures as JSON."""
    loaded = load(options.model, "float32", "cpu")
    print(json.dumps(evaluate(loaded.model, options.folder, options.windows), indent=1))


if __name__ == "__main__":
    run_module(main)
