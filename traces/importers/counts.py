"""Files of counts: how often each expert was chosen. They have no order, so nothing can be replayed from them."""

import re
from collections.abc import Collection, Iterable
from typing import Any

from traces.kit.strict import load_json

COUNTS = "counts per expert, without an order"
WANTED = "the experts of each token in their order: what a cache hits depends on it, and counts do not tell it"
_COUNT = re.compile(
    r"(.*_)?(counts?|freqs?|frequency|frequencies|hist|histograms?|activations|loads?|popularity|usage_total"
    r"|tokens_per_expert|num_tokens|n_tokens|selections|times_chosen|total)"
)
_OF = re.compile(r"(.*_)?(experts?|layers?)(_(ids?|idx|index|num|number|name))?")
_EXPERT = re.compile(r"(.*_)?expert(_(ids?|idx|index|num|number|name))?")
_ORDER = re.compile(
    r"(.*_)?(ids|indices|token|token_idx|token_index|position|pos|step|slot|routed_experts|choices|usage|meta_info)"
)


def _plain(name: str) -> str:
    return re.sub(r"[ -]", "_", name.strip().lower())


def are_counts(names: Collection[str]) -> bool:
    """Say whether columns, keys or arrays of these names are counts of experts: a count, and nothing of an order."""
    plain = [_plain(name) for name in names]
    if any(_ORDER.fullmatch(name) for name in plain):
        return False
    counted = [name for name in plain if _COUNT.fullmatch(name)]
    return bool(counted) and (len(counted) == len(plain) or any(_OF.fullmatch(name) for name in plain))


def are_counts_in(line: str) -> bool:
    """Say whether a line, of CSV or of JSON, is of a file of counts."""
    if line.startswith("{"):
        try:
            return is_histogram(load_json(line.encode()))
        except ValueError:
            return False
    return are_counts(line.split(","))


def is_histogram(node: Any) -> bool:
    """Say whether a JSON object holds counts: named so, or by numbers of layers and experts alone."""
    if not isinstance(node, dict) or not node or len(node) > 2**16:
        return False
    if are_counts(node):
        # One number that is called a count may be a size of the model: counts are by expert.
        lists = any(isinstance(node[name], list | dict) for name in node if _COUNT.fullmatch(_plain(name)))
        return lists or any(_EXPERT.fullmatch(_plain(name)) for name in node)
    return all(map(_is_number, node)) and all(map(_all_numbers, node.values()))


def _is_number(name: str) -> bool:
    return re.fullmatch(r"(model\.)?(layers?|experts?|blk|block|l|e)?[ _.:-]?\d{1,5}(\..*)?", name.lower()) is not None


def _all_numbers(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_number, value)) and _numbers(value.values())
    return _numbers(value if isinstance(value, list) else [value])


def _numbers(values: Iterable[Any]) -> bool:
    return all(type(value) in (int, float) for value in values)
