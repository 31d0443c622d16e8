"""What a transformers model's forward takes beside its tokens: the names differ by family and by release."""

from inspect import signature
from typing import Any


def takes(model: Any, name: str) -> bool:
    """Whether the model's forward knows this keyword.

    Asked of the class: accelerate's hooks hide an instance's own signature.
    """
    return name in signature(type(model).forward).parameters


def cache_key(model: Any) -> str:
    """ "cache", or "past_key_values" of a model whose forward knows no other name.

    The keyword under which it takes and returns its KV cache. The old name warns from transformers 5.24 on, and is gone
    in 5.40.
    """
    return "cache" if takes(model, "cache") else "past_key_values"


def known(model: Any, **given: Any) -> dict[str, Any]:
    """Those of the keywords that the model's forward knows: another one would be an error, or go unheard.

    Positions are given wherever they can be: a model that is given none asks its cache how long it is, and some caches
    answer 0 (a first layer of linear attention keeps no keys).
    """
    return {name: value for name, value in given.items() if takes(model, name)}
