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
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from traces.kit.command import run_module
from traces.kit.errors import UserError, check_range
from traces.kit.vocabulary import MOST
from traces.kit.whole import whole
from traces.kit.words import Between
from traces.tiny_moe import Folder
from traces.tiny_moe.tokens import DOMAINS, VOCABULARY

SAVE_EVERY_S = 240.0
EXPERTS, ATTENTION = "blocks", "float32"
ROWS = 128
LONG_FROM = 0.8
BALANCED_UNTIL, SKEWED_FROM = 0.4, 0.58


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
    balance: Annotated[float, Between(0), "the weight of the load-balancing loss"] = 2e-3
    balance_later: Annotated[float, Between(0), "that weight after two fifths of the run"] = 1e-4
    skew_weight: Annotated[float, Between(0), "that weight at the end, when it pulls towards unequal loads"] = 5e-3
    skew: Annotated[float, Between(0), "the standard deviation of the logarithm of these loads"] = 0.75
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


class Blocks(torch.autograd.Function):
    """Experts over blocks of ROWS rows, each of one expert (as MegaBlocks does, Gale et al. 2022, section 5).

    However unequal the load, shapes stay the same from step to step, so that kernels are made once; padded rows have
    weight zero.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, hidden: Tensor, ids: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """hidden [n, D], ids [n, K], weights [n, K], gate_up [E, 2W, D], down [E, D, W] -> [n, D], in `dtype`."""
        (rows, top_k), (E, D, _), device = ids.shape, down.shape, ids.device
        flat = ids.reshape(-1)
        order = flat.argsort()
        counts = torch.bincount(flat, minlength=E)
        blocks = (counts + ROWS - 1) // ROWS
        n_blocks = rows * top_k // ROWS + E  # never fewer than the sum of `blocks`
        ends = blocks.cumsum(0)
        owner = torch.searchsorted(ends, torch.arange(n_blocks, device=device), right=True).clamp(max=E - 1)
        shift = (ends - blocks) * ROWS - (counts.cumsum(0) - counts)
        slot = torch.arange(rows * top_k, device=device) + shift[flat[order]]
        source = torch.zeros(n_blocks * ROWS, dtype=torch.long, device=device)
        source[slot] = order // top_k
        place = torch.empty_like(order)
        place[order] = slot
        weight = torch.zeros(n_blocks * ROWS, dtype=dtype, device=device)
        weight[place] = weights.reshape(-1).to(dtype)
        weight = weight.view(n_blocks, ROWS, 1)

        x = hidden.to(dtype).index_select(0, source).view(n_blocks, ROWS, D)
        of_blocks = gate_up.to(dtype).index_select(0, owner).chunk(2, 1)
        w_gate, w_up = (half.contiguous() for half in of_blocks)
        w_down = down.to(dtype).index_select(0, owner)
        gate, up = torch.bmm(x, w_gate.mT), torch.bmm(x, w_up.mT)
        sigmoid = gate.sigmoid()
        silu = gate * sigmoid
        inner = silu * up
        weighted = inner * weight
        output = torch.bmm(weighted, w_down.mT).view(-1, D)
        ctx.save_for_backward(
            x, w_gate, w_up, w_down, gate, up, sigmoid, silu, inner, weighted, weight, source, place, owner
        )
        ctx.shape = rows, top_k, E
        return output.index_select(0, place).view(rows, top_k, D).sum(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        """The gradients of hidden, weights, gate_up and down; those of parameters in float32."""
        x, w_gate, w_up, w_down, gate, up, sigmoid, silu, inner, weighted, weight, source, place, owner = (
            ctx.saved_tensors
        )
        rows, top_k, E = ctx.shape
        D = x.shape[-1]

        def by_expert(of_blocks: Tensor) -> Tensor:
            zeros = torch.zeros(E, *of_blocks.shape[1:], device=grad.device)
            return zeros.index_add_(0, owner, of_blocks.float())

        grad = grad.to(x.dtype).index_select(0, source).view_as(x)
        grad_down = by_expert(torch.bmm(grad.mT, weighted))
        grad_inner = torch.bmm(grad, w_down)
        grad_weight = (grad_inner * inner).sum(-1).view(-1)[place].view(rows, top_k).float()
        grad_inner *= weight
        grad_up = grad_inner * silu
        grad_gate = grad_inner * up * sigmoid * (1 + gate - silu)
        grad_gate_up = by_expert(torch.cat([torch.bmm(grad_gate.mT, x), torch.bmm(grad_up.mT, x)], 1))
        grad_x = torch.baddbmm(torch.bmm(grad_gate, w_gate), grad_up, w_up).view(-1, D)
        grad_hidden = grad_x.index_select(0, place).view(rows, top_k, D).sum(1)
        return grad_hidden, None, grad_weight, grad_gate_up, grad_down, None


def block_experts(module: Any, hidden: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """The library's signature around `Blocks`, in autocast's dtype: hidden [n, D], ids [n, K], weights [n, K]."""
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    output: Tensor = Blocks.apply(hidden, ids, weights, module.gate_up_proj, module.down_proj, dtype)
    return output


def float32_attention(module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any, **_: Any) -> tuple[Tensor, None]:
    """Causal attention in float32: on a CPU the gradient of the bfloat16 kernel takes twice as long."""
    with torch.autocast(q.device.type, enabled=False):
        output = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), is_causal=True, enable_gqa=True)
    return output.to(q.dtype).transpose(1, 2).contiguous(), None


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


ALL_EXPERTS_FUNCTIONS.register(EXPERTS, block_experts)
ALL_ATTENTION_FUNCTIONS.register(ATTENTION, float32_attention)


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


def balance_weight(progress: float, options: Options) -> float:
    """Of the balance loss: first against dead experts, then next to nothing, at the end for unequal loads."""
    if progress < BALANCED_UNTIL:
        return options.balance
    return options.balance_later if progress < SKEWED_FROM else options.skew_weight


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
        weight = balance_weight(progress, options)
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
