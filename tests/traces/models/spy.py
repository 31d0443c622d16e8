"""One recorded pass, and beside it an independent witness of what the experts received."""

from contextlib import ExitStack
from typing import Any

import torch

from traces.collect.recorder import Recorder
from traces.models.families import inspect_model

ALL = frozenset({"router_probs", "gate_ahead", "hidden", "embedding", "token_ids"})
TOKENS = torch.arange(2, 26).reshape(2, 12)


def spied_pass(
    model: Any, ids: Any = TOKENS, real: Any = None, signals: frozenset[str] = ALL, **inputs: Any
) -> tuple[dict[str, Any], list[Any], Any]:
    """What a pass recorded (two layers looked ahead), what each experts module was called with, and the logits."""
    moe = inspect_model(model)
    calls: list[Any] = []
    recorder = Recorder(moe, signals, ahead=2)
    with ExitStack() as undo, torch.inference_mode():
        for layer in moe.layers:
            handle = layer.experts.register_forward_pre_hook(lambda _module, args: calls.append(args))
            undo.callback(handle.remove)
        undo.enter_context(recorder.attached())
        logits = model(input_ids=ids, use_cache=False, **inputs).logits
        arrays = recorder.pass_over(ids, real)
    return arrays, calls, logits
