"""Which importers there are: those of this package, and those behind the entry points of other packages."""

from functools import cache
from importlib.metadata import entry_points

from traces.importers import (
    Importer,
    jsonl,
    llama_cpp,
    megatron,
    moe_beyond,
    npz,
    route_trace,
    routed_experts,
    sglang_pt,
    vllm_log,
)
from traces.kit.errors import UserError, one_of

GROUP = "moe_offload.importers"
OURS = tuple(
    module.IMPORTER
    for module in (route_trace, npz, jsonl, routed_experts, vllm_log, sglang_pt, llama_cpp, megatron, moe_beyond)
)


@cache
def importers() -> dict[str, Importer]:
    """Return all importers by name, ours first. UserError for a name that two of them have."""
    found = {importer.name: importer for importer in OURS}
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        where = f"{GROUP}: {point.name}={point.value}"
        importer = point.load()
        if not isinstance(importer, Importer):
            raise UserError(f"{where}: allowed: an instance of traces.importers.Importer")
        if importer.name in found:
            raise UserError(f"{where}: {importer.name} is defined twice; allowed: a name besides {one_of(found)}")
        found[importer.name] = importer
    return found
