"""What an importer hands over: the requests of a file, as it has them, and what the file says as a whole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from traces.format.layout import Array
from traces.format.manifest import Recorder


@dataclass(frozen=True)
class Found:
    """One request as its file has it: n rows, one per token, of L layers and K slots.

    ``where``: its place in the file, for errors. ``expert_ids`` [n, L, K]: integers, -1 where absent. ``prefill``: how
    many of the rows, the first ones, are the prompt's; each of the others is a decode pass. ``chunks``: rows of each
    pass of the prompt, where it was not one. ``start``: tokens in the KV cache before the first row.
    ``prompt_tokens``: where it is more than start + prefill.
    ``output_tokens``: where it is not one more than the decode passes (the prompt's pass yields the first token).
    ``signals``: "expert_weights" [n, L, K], "token_ids" [n]; the same ones in every request. ``first_row``: the number
    of the first row in the file, for errors. ``source``: of its prompt, where the file says it.
    """

    where: str
    expert_ids: Array
    prefill: int
    start: int = 0
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    signals: Mapping[str, Array] = field(default_factory=dict)
    first_row: int = 0
    source: str | None = None
    chunks: Sequence[int] = ()

    @property
    def prompt_passes(self) -> list[int]:
        """The rows of each pass of the prompt."""
        return list(self.chunks) if self.chunks else [self.prefill] * (self.prefill > 0)

    @property
    def decode(self) -> int:
        """How many decode passes it has."""
        return len(self.expert_ids) - self.prefill


@dataclass(frozen=True)
class File:
    """What a file says as a whole; None: nothing, and it is found in the requests.

    ``expert_bytes``: of one expert, by layer of the file; 0 for a layer without experts. ``ids``: what the file calls
    the experts of a token, for errors. ``padded``: rows of zeros stand for "not recorded". ``exact``: they never do.
    """

    recorder: Recorder
    model: str
    n_layers: int | None = None
    n_experts: int | None = None
    top_k: int | None = None
    expert_bytes: Sequence[int] | None = None
    decoding: Mapping[str, Any] = field(default_factory=dict)
    ids: str = "expert ids"
    padded: bool = False
    exact: bool = False
