"""The core of experts that are there in several versions, each an item of its own (policies.api.Setup)."""

from policies.api import LayerEvent
from sim.core.accounts import BYTES_DEMANDED, BYTES_READY, FETCHED, RECALL, SHARED
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
        setup, state, layer, classes = self.setup, self.state, event.layer, self._classes
        if classes is not None:  # whoever chose an expert chose its version
            classes |= {x: classes[expert] for x in event.demand if (expert := setup.expert_of(x)) in classes}
        super()._classify(event, foretold)
        hits, taken = self.accounts.hits, state.size[layer * state.n_experts]
        phase = 0 if event.prefill else 1
        for x, n in zip(event.demand, event.tokens, strict=True):
            complete, row = self._done[x] == self._chunks, hits[phase][layer]
            if classes is None:
                # What has no tokens has been taken out again, at its own size.
                row[BYTES_DEMANDED] += state.size[x] - taken
                row[BYTES_READY] += (state.size[x] - taken) * complete
            else:
                row = hits[classes.get(x, SHARED)][layer]
            if n:
                own = self.accounts.by_version[setup.version_of(x)]
                own.lookups += 1
                own.complete += complete
                own.tokens += n
                row[RECALL] += foretold is not None and x >= setup.n_all and setup.expert_of(x) in foretold
        for x in foretold or ():
            row = hits[phase if classes is None else classes.get(x, SHARED)][layer]
            row[FETCHED] += self._done[x] != self._chunks and self._in_another(x)

    def _in_another(self, expert: int) -> bool:
        """Whether the expert is complete in a lower version."""
        items = range(expert + self.setup.n_all, len(self._done), self.setup.n_all)
        return any(self._done[item] == self._chunks for item in items)
