"""What tests of streams share: tiny models with a tokenizer of one token per byte, and the library's own answers."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from real.run.asked import Asked
from real.run.serving import Model, Serving
from real.run.stream import Stream, Token
from real.run.words import Generation
from real.runtime.models import Where
from real.words import configuration
from sim.experiment.config import RunConfig
from traces.models.load import Loaded

SAMPLED: dict[str, Any] = {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.3}
TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
CPU = Where("cpu")


@cache
def bytewise() -> Any:
    """Of all bytes, and no special token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made)


def loaded(model: Any, tokenizer: Any = None) -> Loaded:
    return Loaded(model, tokenizer or bytewise(), "tiny", None, {})


def offloaded(model: Any, tokenizer: Any = None) -> Model:
    """Takes the model's experts: what the library is to do with it comes before."""
    return Model(loaded(model, tokenizer), CPU.put(model), CPU)


@cache
def config(*words: str) -> RunConfig:
    """Of a checkpoint, priced as itself."""
    return configuration(["model=a-checkpoint", *words], "")


def stream(model: Model, prompts: Sequence[Any], *words: str, **how: Any) -> Stream:
    run = config("policy=lru", "budget=30%", *words)
    return Stream(Serving(run, model, Asked.of_texts(prompts, "prompts"), Generation(**how)))


def ids_of(tokens: Sequence[Token], request: int = 0) -> list[int]:
    return [token.id for token in tokens if token.request == request]


def text_of(tokens: Sequence[Token], request: int = 0) -> str:
    return "".join(token.text for token in tokens if token.request == request)


def library(model: Any, ids: Sequence[int], seed: int | None = None, tokenizer: Any = None, **how: Any) -> list[int]:
    """What the library's own generate adds to a prompt, the model resident; ``seed``: of a sampled answer."""
    if seed is not None:
        torch.manual_seed(seed)
    with torch.inference_mode():
        out = model.generate(
            torch.tensor([ids]), do_sample=seed is not None, pad_token_id=0, tokenizer=tokenizer or bytewise(), **how
        )
    return [int(token) for token in out[0, len(ids) :]]
