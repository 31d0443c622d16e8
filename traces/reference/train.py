"""Train the reference model, seeded and resumable, on a CPU or a GPU.

    python -m traces.reference.train tokens=9000000 [minutes=80] [device=cuda] [seed=0] [folder=.text]

reads the token arrays of `traces.reference.tokens`, keeps FOLDER/run/checkpoint.pt, and resumes from it. The
model is exported by `traces.reference.export`, from any checkpoint.
"""

import json
import math
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from traces.kit.command import run_module
from traces.kit.errors import UserError, check_range
from traces.kit.vocabulary import MOST
from traces.kit.whole import whole
from traces.kit.words import Between
from traces.reference import Folder
from traces.reference.architecture import GROUPED, SORTED, balance_loss, build
from traces.reference.text import DOMAINS

BALANCE_WEIGHT = 0.01
SAVE_EVERY_S = 240.0


@dataclass(frozen=True)
class Options:
    """Trains the reference model, seeded and resumable. minutes > 0 anneals early enough to end by then; the run then
    depends on the machine's speed.
    """

    tokens: Annotated[int, Between(1, MOST), "of text that are seen; at least batch times length"]
    minutes: Annotated[float, Between(0), "0: as long as it takes"] = 0.0
    seed: Annotated[int, Between(0, MOST), "of weights and batches"] = 0
    batch: Annotated[int, Between(1, MOST), "windows per step"] = 16
    length: Annotated[int, Between(1, MOST), "tokens of a window"] = 256
    rate: Annotated[float, Between(0), "the peak of AdamW's"] = 2e-3
    warm_up: Annotated[int, Between(0, MOST), "steps"] = 100
    decay: Annotated[float, Between(0), "of AdamW"] = 0.1
    device: Annotated[str, "cpu | cuda | cuda:N"] = "cpu"
    folder: Folder = Path(".text")

    def __post_init__(self) -> None:
        check_range("tokens", self.tokens, self.batch * self.length)


class Batches:
    """Windows of `length` + 1 tokens; domains are drawn with probability ~ sqrt(tokens)."""

    def __init__(self, folder: Path, part: str) -> None:
        files = [folder / "tokens" / f"{domain.name}.{part}.npy" for domain in DOMAINS]
        if missing := [file for file in files if not file.exists()]:
            raise UserError(f"{missing[0]} is missing: run python -m traces.reference.tokens first")
        self.arrays = [np.load(file, mmap_mode="r") for file in files]
        sizes = np.sqrt([len(array) for array in self.arrays])
        self.shares = sizes / sizes.sum()

    def draw(self, seed: int, step: int, batch: int, length: int) -> tuple[Tensor, np.ndarray]:
        """The batch of `step` (int64 [batch, length + 1]) and its domains [batch]: a function of the seed."""
        rng = np.random.default_rng([seed, step])
        domains = rng.choice(len(self.arrays), size=batch, p=self.shares)
        starts = [rng.integers(len(self.arrays[domain]) - length) for domain in domains]
        rows = [self.arrays[domain][at : at + length + 1] for domain, at in zip(domains, starts, strict=True)]
        return torch.from_numpy(np.stack(rows).astype(np.int64)), domains


def rate_at(progress: float, step: int, options: Options) -> float:
    """Linear warm-up over steps, then cosine over `progress` (0 to 1) down to 2 % of the peak."""
    warm = min(1.0, (step + 1) / options.warm_up)
    return options.rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def losses(model: Any, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Next-token loss in nats and balance loss of int64 `batch` [B, T + 1] under an OLMoE `model`."""
    inputs, targets = batch[:, :-1], batch[:, 1:]
    out = model.model(input_ids=inputs, output_router_logits=True, use_cache=False)
    logits = model.lm_head(out.last_hidden_state)
    text = F.cross_entropy(logits.flatten(0, 1).float(), targets.reshape(-1))
    return text, balance_loss(out.router_logits, model.config.num_experts_per_tok)


def optimizer_of(model: nn.Module, options: Options) -> torch.optim.AdamW:
    """AdamW; norms are not decayed."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": options.decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=options.rate, betas=(0.9, 0.95), fused=True)


@dataclass
class Run:
    """What a checkpoint holds beside the weights: enough to go on, and the run's history."""

    step: int = 0
    elapsed_s: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)


def progress_of(run: Run, options: Options) -> float:
    """The share of the run that is done: of its tokens or of its minutes, whichever is more."""
    by_tokens = run.step * options.batch * options.length / options.tokens
    return max(by_tokens, run.elapsed_s / (60 * options.minutes)) if options.minutes else by_tokens


def save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, run: Run, options: Options) -> None:
    """Write the checkpoint at `path`, atomically."""
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "run": asdict(run)}
    settings = asdict(options) | {"folder": str(options.folder)}
    with whole(path) as part:
        torch.save({**state, "options": settings, "command": sys.argv[1:]}, part)


def resume(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, options: Options) -> Run:
    """Load the checkpoint at `path`, if there is one; UserError where it was made with other settings."""
    if not path.exists():
        return Run()
    state = torch.load(path, map_location=options.device, weights_only=True)
    free = {"minutes", "device", "folder"}
    for key, value in asdict(options).items():
        if key not in free and state["options"][key] != value:
            was = state["options"][key]
            raise UserError(f"{key}={value} cannot resume {path}, made with {key}={was}; or remove that file")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return Run(**state["run"])


def train(options: Options) -> None:
    """Train until `tokens` tokens are seen or `minutes` have passed, whichever is first."""
    checkpoint = options.folder / "run" / "checkpoint.pt"
    checkpoint.parent.mkdir(exist_ok=True)
    batches = Batches(options.folder, "train")
    cuda = options.device.startswith("cuda")
    model = build(options.seed)
    nn.Module.to(model, options.device)
    model.set_experts_implementation(GROUPED if cuda else SORTED)
    optimizer = optimizer_of(model, options)
    run = resume(checkpoint, model, optimizer, options)

    started_s = time.monotonic() - run.elapsed_s
    saved_s = run.elapsed_s
    while (progress := progress_of(run, options)) < 1.0:
        for group in optimizer.param_groups:
            group["lr"] = rate_at(progress, run.step, options)
        batch, _ = batches.draw(options.seed, run.step, options.batch, options.length)
        with torch.autocast(options.device.split(":")[0], torch.bfloat16, enabled=cuda):
            text, balance = losses(model, batch.to(options.device))
        torch.autograd.backward(text + BALANCE_WEIGHT * balance)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        run.step += 1
        run.elapsed_s = time.monotonic() - started_s
        if run.step % 20 == 0:
            tokens = run.step * options.batch * options.length
            point = {"tokens": tokens, "loss": text.item(), "balance": balance.item()}
            run.curve.append(point | {"rate": optimizer.param_groups[0]["lr"]})
            speed = round(tokens / run.elapsed_s)
            print(json.dumps({**point, "tokens_per_s": speed}), file=sys.stderr, flush=True)
        if run.elapsed_s - saved_s > SAVE_EVERY_S:
            save(checkpoint, model, optimizer, run, options)
            saved_s = run.elapsed_s
    save(checkpoint, model, optimizer, run, options)


if __name__ == "__main__":
    run_module(train)
