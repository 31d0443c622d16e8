"""The core of experts that are there in several versions, each an item of its own (policies.api.Setup)."""

from policies.api import LayerEvent
from sim.core.accounts import BYTES_DEMANDED, BYTES_READY, FETCHED, RECALL
from sim.core.core import Core
from sim.core.loads import NONE


class VersionedCore(Core):
    """Loads, slots, queues and pins are of items; what a gate demands, and what is predicted, is of experts.

    A hit is that the version which is to be computed is there, and its bytes are what counts. An expert was predicted
    or fetched in whatever version.
    """

    def next_chunk(self) -> int:
        chunk = super().next_chunk()
        if chunk != NONE:
            item = chunk // self._chunks
            own = self.accounts.by_version[self.setup.version_of(item)]
            own.copied_bytes += self.state.chunk_bytes[chunk]
            own.loads += self._given[item] == 1
        return chunk

    def _classify(self, event: LayerEvent, foretold: set[int] | None) -> None:
        """As with one version, of which each layer's experts have one size; then what that has left to say."""
        super()._classify(event, foretold)
        setup, state, phase = self.setup, self.state, 0 if event.prefill else 1
        row, taken = self.accounts.hits[phase][event.layer], state.size[event.layer * state.n_experts]
        for x, n in zip(event.demand, event.tokens, strict=True):
            complete, more = self._done[x] == self._chunks, state.size[x] - taken
            # What has no tokens has been taken out again, at its own size.
            row[BYTES_DEMANDED] += more
            row[BYTES_READY] += more * complete
            if n:
                own = self.accounts.by_version[setup.version_of(x)]
                own.lookups += 1
                own.complete += complete
                own.tokens += n
                row[RECALL] += foretold is not None and x >= setup.n_all and setup.expert_of(x) in foretold
        for x in foretold or ():
            row[FETCHED] += self._done[x] != self._chunks and self._in_another(x)

    def _in_another(self, expert: int) -> bool:
        """Whether the expert is complete in a lower version."""
        items = range(expert + self.setup.n_all, len(self._done), self.setup.n_all)
        return any(self._done[item] == self._chunks for item in items)
