"""``real.load`` and ``real.generate``: the engine of ``python -m real run``, for a program or a notebook."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from real.run.asked import Asked, Chat
from real.run.serving import Model, Serving
from real.run.stream import Stream
from real.run.words import ALL_TOKENS, Generation
from real.runtime.models import Where
from real.words import checkpoint, configuration, model_dtype, prepare
from traces.kit.errors import UserError
from traces.kit.vocabulary import memory
from traces.kit.words import parse


def load(
    model: str = "tiny-moe",
    *,
    dtype: str = "",
    device: str = "auto",
    exact: bool = True,
    host_memory: str = "",
    threads: int = 0,
) -> Model:
    """A checkpoint of this machine, its experts in host memory and the rest on the device, to generate with more than
    once. Nothing is fetched, now or later by this process (HF_HUB_OFFLINE). UserError for what cannot be.

    ``model``: tiny-moe, a folder, or a name of the local Hugging Face cache. ``dtype``: bfloat16, float16 or float32,
    else its own. ``device``: auto, cpu, cuda, cuda:N. ``exact``, ``host_memory`` (such as "110GB") and ``threads`` are
    those of ``python -m real run``.
    """
    prepare(threads)
    words = [f"model={model}", *([f"model.dtype={dtype}"] if dtype else [])]
    config = configuration(words, "")
    return Model.open(checkpoint(words, config), model_dtype(config), Where(device, memory(host_memory), exact), words)


def generate(
    model: str | Model,
    prompts: str | Chat | Sequence[str | Chat],
    *,
    policy: str = "lru",
    budget: str | int = "auto",
    hardware: str = "",
    batch: int = 1,
    max_new_tokens: int = 64,
    max_prompt_tokens: int = ALL_TOKENS,
    chat: bool = False,
    system: str = "",
    decoding: str = "greedy",
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    stop: str | Sequence[str] = (),
    seed: int = 0,
    predictor: str = "",
    words: Sequence[str] = (),
) -> Stream:
    """Continue prompts with the experts offloaded under a policy; an iterator of :class:`real.Token`.

    ``model``: what :func:`load` gave, or its name, which is loaded for this call alone. ``prompts``: a text, a chat (a
    list of turns {"role": ..., "content": ...}), or a list of these. ``budget``: bytes for experts on the device as
    "8GB", "50%" of all, or "auto", all that there is. ``batch``: prompts that are continued at a time; their tokens
    then come in turns. The rest means what the same word of ``python -m real run`` means; ``words`` are further ones of
    its configuration, such as "policy.scope=layer" or "trace=my_trace".

    The tokens are those that transformers' own ``generate`` would choose: greedily (do_sample=False), and with
    decoding="sampled" those of the first prompt after torch.manual_seed(seed), of each other after a seed of its own
    (:func:`real.run.choosing.seed_of`). top_k=0 is all tokens here, where the library's default is 50.

    UserError, at once, for a word or a prompt that cannot be, for a context or a budget without room, and where the
    model has no chat template; while iterating, for what only the device knows. The model is run from the first token
    on, by a thread of its own; see :class:`real.Stream`.
    """
    given: dict[str, object] = {
        "chat": str(chat).lower(),
        "system": system,
        "decoding": decoding,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "max_new_tokens": max_new_tokens,
        "max_prompt_tokens": max_prompt_tokens,
    }
    if stop:
        given["stop"] = json.dumps([stop] if isinstance(stop, str) else list(stop))
    how = parse(Generation, [f"{key}={value}" for key, value in given.items()], "real.generate")
    asked = Asked.of_texts(_several(prompts), "prompts")
    more = [f"policy={policy}", f"budget={budget}", f"workload.batch={batch}", f"seed={seed}", *words]
    more += [f"hardware={hardware}"] if hardware else []
    if isinstance(model, str):
        configuration([*more, f"model={model}"], "")  # a slip is told before anything is loaded
        model = load(model)
    history = any(word.startswith("trace=") for word in words)
    config = configuration([*more, *model.words], "")
    return Stream(Serving(config, model, asked, how, predictor, history_given=history))


def _several(prompts: str | Chat | Sequence[str | Chat]) -> Sequence[str | Chat]:
    if isinstance(prompts, str):
        return [prompts]
    if not isinstance(prompts, Sequence):
        raise UserError(f"prompts={prompts!r:.40}: allowed: a text, a chat as a list of turns, or a list of them")
    if prompts and isinstance(prompts[0], Mapping):
        return [prompts]  # type: ignore[list-item] # one chat
    return prompts  # type: ignore[return-value]
