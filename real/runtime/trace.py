"""The trace of what a device has generated: the simulator can replay it, and the result is told of it."""

from collections.abc import Sequence
from pathlib import Path

from real.runtime.generate import Served
from real.runtime.live import AHEAD, Live
from real.runtime.offloaded import Offloaded
from traces.format.layout import DECODE, PREFILL, Request
from traces.format.manifest import Prompts
from traces.format.manifest import Recorder as RecorderInfo
from traces.models.devices import device_name
from traces.models.families import signal_shapes
from traces.models.load import Loaded, recorder_version
from traces.prompts.jobs import Decoding
from traces.prompts.source import PromptFile
from traces.writing.writer import TraceWriter


def write_trace(
    path: Path,
    live: Live,
    requests: Sequence[Served],
    loaded: Loaded,
    model: Offloaded,
    prompts: PromptFile,
    decoding: Decoding,
    origins: Sequence[str],
) -> None:
    """Write the requests, in order, with what the run has kept of them; ``origins``: where each prompt is from."""
    moe = model.moe
    signals = live.wanted | {"expert_weights", "token_ids"}
    shapes = signal_shapes(moe, signals, AHEAD)
    shapes.pop("router_choice", None)
    sizes = len(moe.layers), moe.n_experts, moe.top_k
    with TraceWriter(path, n_layers=sizes[0], n_experts=sizes[1], top_k=sizes[2], signals=shapes) as writer:
        for request, origin in zip(requests, origins, strict=True):
            rows = [n for _, n in request.parts]
            steps = [(DECODE if i else PREFILL, n, sum(rows[:i])) for i, n in enumerate(rows)]
            arrays = {name: live.rows_of(name, request.parts) for name in ("expert_ids", *shapes)}
            about = Request(request.number, len(request.prompt), len(request.made), None, None, origin)
            writer.add_request(about, steps=steps, **arrays)
        writer.close(
            name=loaded.name,
            revision=loaded.revision,
            recorder=RecorderInfo("real.run", recorder_version(), device_name(model.backend.device)),
            decoding=decoding.settings(loaded.tokenizer),
            recording="recorded",
            prompts=Prompts(prompts.name, "; ".join(prompts.licences) or None),
            expert_bytes=[model.store.layout.nbytes] * len(moe.layers),
            shapes=model.shapes,
            dtype=str(loaded.model.dtype).removeprefix("torch."),
            scoring=moe.scoring,
            priced_as=None,
        )
