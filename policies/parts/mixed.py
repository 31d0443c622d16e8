"""Passes of prompts and output together: what a policy that treats the two otherwise takes them for."""

from typing import Literal

from policies.api import LayerEvent, Step

Mixed = Literal["prefill", "decode"]


def as_prefill(rows: Step | LayerEvent, mixed: Mixed) -> bool:
    """Whether a pass or its event is to be treated as a prompt's: as ``mixed`` says where it has other rows as well."""
    return rows.prefill and (mixed == "prefill" or sum(rows.prompt_rows) == sum(rows.counts))
