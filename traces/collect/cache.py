"""The keyword under which a transformers model takes and returns its KV cache: it was renamed in 5.24."""

from __future__ import annotations

from inspect import signature
from typing import Any


def cache_key(model: Any) -> str:
    """ "cache", or "past_key_values" of a model whose forward knows no other name.

    The old name warns from transformers 5.24 on, and is gone in 5.40. Asked of the class: accelerate's hooks hide an
    instance's own signature.
    """
    return "cache" if "cache" in signature(type(model).forward).parameters else "past_key_values"
