"""Train tiny-moe, seeded and resumable, on a CPU or a GPU.

    python -m traces.tiny_moe.train tokens=9000000 [minutes=80] [device=cuda] [seed=0] [folder=.text]

reads the token arrays of `traces.tiny_moe.tokens`, keeps FOLDER/run/checkpoint.pt, and resumes from it. The
model is exported by `traces.tiny_moe.export`, from any checkpoint.
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
from transformers import OlmoeConfig, OlmoeForCausalLM

from traces.kit.command import run_module
from traces.kit.errors import UserError, check_range
from traces.kit.vocabulary import MOST
from traces.kit.whole import whole
from traces.kit.words import Between
from traces.tiny_moe import Folder
from traces.tiny_moe.blocks import ATTENTION, EXPERTS
from traces.tiny_moe.tokens import DOMAINS, VOCABULARY

SAVE_EVERY_S = 240.0
LONG_FROM = 0.8
BALANCE = {0.0: 2e-3, 0.4: 1e-4, 0.58: 5e-3, 0.7625: 5e-2, 0.8493: 2e-1}
SKEWED_FROM = 0.58
"""The weight of the load-balancing loss from which share of the run on: first against dead experts; then next to
nothing, which changed little; at the end for unequal loads, as real models have."""


@dataclass(frozen=True)
class Options:
    """Trains tiny-moe, seeded and resumable. minutes > 0 anneals early enough to end by then; the run then
    depends on the machine's speed.
    """

    tokens: Annotated[int, Between(1, MOST), "of text that are seen; at least batch times length"]
    minutes: Annotated[float, Between(0), "0: as long as it takes"] = 0.0
    seed: Annotated[int, Between(0, MOST), "of weights and batches"] = 0
    batch: Annotated[int, Between(1, MOST), "windows per step"] = 16
    length: Annotated[int, Between(1, MOST), "tokens of a window"] = 256
    long: Annotated[int, Between(1, MOST), "tokens of a window in the last fifth of the run"] = 1024
    skew: Annotated[float, Between(0), "the standard deviation of the logarithm of experts' loads that is wanted at the end"] = 0.75
    rate: Annotated[float, Between(0), "the peak of AdamW's"] = 2e-3
    warm_up: Annotated[int, Between(0, MOST), "steps"] = 100
    decay: Annotated[float, Between(0), "of AdamW"] = 0.1
    bfloat16: Annotated[bool, "products in bfloat16: slow on a CPU without AMX"] = True
    device: Annotated[str, "cpu | cuda | cuda:N"] = "cpu"
    folder: Folder = Path(".text")

    def __post_init__(self) -> None:
        check_range("tokens", self.tokens, self.batch * self.length)
        if self.batch * self.length % self.long:
            raise UserError(f"long={self.long} does not divide batch={self.batch} times length={self.length}")


def build(seed: int) -> OlmoeForCausalLM:
    """OLMoE's routing (16 layers x 64 experts, top-8) at width 128: 14.8 M parameters, not yet trained."""
    torch.manual_seed(seed)
    return OlmoeForCausalLM(
        OlmoeConfig(
            vocab_size=VOCABULARY,
            hidden_size=128,
            intermediate_size=32,
            num_hidden_layers=16,
            num_attention_heads=4,
            num_key_value_heads=4,
            num_experts=64,
            num_experts_per_tok=8,
            max_position_embeddings=1024,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=None,
        )
    )


def balance_loss(router_logits: tuple[Tensor, ...], top_k: int, skew: float = 0.0) -> Tensor:
    """The load-balancing loss of every layer by itself, averaged; `top_k` when loads are as wanted.

    Wanted are equal loads; with `skew` log-normal ones of that standard deviation, the busiest expert of a layer to
    have the largest. The library's loss pools the layers before it balances, so that two skewed layers may cancel out.
    """
    losses = []
    for logits in router_logits:
        probs = logits.float().softmax(-1)
        E = probs.shape[-1]
        load = torch.bincount(probs.topk(top_k).indices.reshape(-1), minlength=E) / len(probs)
        wanted = lognormal_shares(E, skew).to(load)[load.argsort().argsort()]
        losses.append((load / wanted * probs.mean(0)).sum())
    return torch.stack(losses).mean()


def lognormal_shares(count: int, deviation: float) -> Tensor:
    """float64 [count], ascending, of sum 1: the quantiles of a log-normal distribution at (i + 1/2) / count."""
    shares = (deviation * torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count)).exp()
    return shares / shares.sum()


def training_tokens(folder: Path) -> list[np.ndarray]:
    """The token array of each domain, mapped."""
    files = [folder / "tokens" / f"{domain.name}.train.npy" for domain in DOMAINS]
    if missing := [file for file in files if not file.exists()]:
        raise UserError(f"{missing[0]} is missing: run python -m traces.tiny_moe.tokens first")
    return [np.load(file, mmap_mode="r") for file in files]


def draw(tokens: list[np.ndarray], step: int, options: Options, progress: float = 0.0) -> Tensor:
    """The batch of `step`, int64 [windows, length + 1], by the seed; domains with probability ~ sqrt(tokens).

    From LONG_FROM on, as many tokens come in windows of `long`: all of the run would take a fifth longer.
    """
    rng, sizes = np.random.default_rng([options.seed, step]), np.sqrt([len(array) for array in tokens])
    length = options.long if progress >= LONG_FROM else options.length
    domains = rng.choice(len(tokens), size=options.batch * options.length // length, p=sizes / sizes.sum())
    starts = [rng.integers(len(tokens[domain]) - length) for domain in domains]
    rows = [tokens[domain][at : at + length + 1] for domain, at in zip(domains, starts, strict=True)]
    return torch.from_numpy(np.stack(rows).astype(np.int64))


def rate_at(progress: float, step: int, options: Options) -> float:
    """Linear warm-up over steps, then cosine over `progress` (0 to 1) down to 2 % of the peak."""
    warm = min(1.0, (step + 1) / options.warm_up)
    return options.rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def losses(model: Any, batch: Tensor, skew: float = 0.0) -> tuple[Tensor, Tensor]:
    """Next-token loss in nats and balance loss of int64 `batch` [B, T + 1] under an OLMoE `model`."""
    inputs, targets = batch[:, :-1], batch[:, 1:]
    out = model.model(input_ids=inputs, output_router_logits=True, use_cache=False)
    logits = model.lm_head(out.last_hidden_state)
    text = F.cross_entropy(logits.flatten(0, 1).float(), targets.reshape(-1))
    return text, balance_loss(out.router_logits, model.config.num_experts_per_tok, skew)


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
    texts = training_tokens(options.folder)
    kind = options.device.split(":")[0]
    model = build(options.seed)
    nn.Module.to(model, options.device)
    model.set_experts_implementation(EXPERTS)
    if kind == "cpu":
        model.set_attn_implementation(ATTENTION)
    matrices = {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": options.decay}
    vectors = {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0}  # norms
    optimizer = torch.optim.AdamW([matrices, vectors], lr=options.rate, betas=(0.9, 0.95), fused=True)
    run = resume(checkpoint, model, optimizer, options)

    started_s = time.monotonic() - run.elapsed_s
    saved_s = run.elapsed_s
    while (progress := progress_of(run, options)) < 1.0:
        for group in optimizer.param_groups:
            group["lr"] = rate_at(progress, run.step, options)
        batch = draw(texts, run.step, options, progress)
        with torch.autocast(kind, torch.bfloat16, enabled=options.bfloat16):
            text, balance = losses(model, batch.to(options.device), options.skew if progress >= SKEWED_FROM else 0.0)
        weight = BALANCE[max(start for start in BALANCE if start <= progress)]
        torch.autograd.backward(text + weight * balance)
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
