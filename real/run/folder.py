"""What a device's run leaves: its result, its folder, and the trace of what was generated."""

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from real.run.asked import Asked
from real.runtime.generate import Served
from real.runtime.live import AHEAD, Live
from real.runtime.offloaded import Offloaded
from real.runtime.runner import DeviceRun
from sim.core.log import save
from sim.experiment.cell import Cell
from sim.experiment.provenance import learned, result_of
from sim.results.label import label
from sim.results.store import Store, layer_rows, request_rows
from traces.format.layout import DECODE, PREFILL, Request
from traces.format.manifest import Prompts
from traces.format.manifest import Recorder as RecorderInfo
from traces.format.reader import Trace
from traces.kit.strict import dump_json
from traces.models.devices import device_name
from traces.models.families import signal_shapes
from traces.models.load import Loaded, recorder_version
from traces.writing.writer import TraceWriter


@dataclass(frozen=True)
class Session:
    """A run that has ended. ``cell``: the configuration on the trace that was served, or made."""

    cell: Cell
    run: DeviceRun
    about: Mapping[str, Any]
    texts: tuple[str, ...] = ()
    """What was generated, by request."""
    made: Path | None = field(default=None, repr=False)
    """Where the trace lies that was made, to be copied to the result; it goes with the session."""
    history: Trace | None = None
    """Whose train requests a policy may learn from that served prompts."""

    def document(self) -> dict[str, Any]:
        """The result document of the simulator, with what is to be said of the device."""
        made = result_of(self.cell, self.run.outcome, None)
        made["nulls"]["bounds"] = made["nulls"]["reference"] = "a device's run: python -m sim run has them"
        if rests := made["provenance"].get("modelled", {}) | self._learned():
            made["provenance"]["modelled"] = rests
        made["provenance"]["device"] = dict(self.about)
        return made

    def _learned(self) -> dict[str, Any]:
        """What nobody recorded of that from which policy and predictors learned, where prompts were served."""
        policy, setup = self.run.core.policy, self.run.core.setup
        found = learned(policy, setup.predictors)
        if self.history is not None and policy.wants_history():
            read = {"expert_ids", *policy.needs()}
            made = {name: dict(it) for name, it in self.history.manifest.modelled.items() if name in read}
            found |= {"history": made} if made else {}
        return found

    def keep(self, out: Path, document: Mapping[str, Any]) -> Path:
        """Write the folder of the run, whole or not at all; returns it. ``document``: its own."""
        store, run, config, setup = Store(out), self.run, self.cell.config, self.cell.setup
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
        folder = store.folder(f"real-{run.core.policy.name}-{setup.budget}-{stamp}")

        def fill(temp: Path) -> None:
            (temp / "result.json").write_text(dump_json(document), encoding="utf-8")
            _table(temp / "requests.csv", request_rows(run.outcome))
            _table(temp / "layers.csv", layer_rows(run.outcome))
            (temp / "config.yaml").write_text(yaml.safe_dump(asdict(config), sort_keys=False), encoding="utf-8")
            save(run.core.log, temp / "log.npy")
            if self.made is not None:
                shutil.copytree(self.made / "trace", temp / "trace")
            if self.texts:
                lines = [json.dumps({"request": i, "text": text}) for i, text in enumerate(self.texts)]
                (temp / "texts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
            if config.timeline:
                what = f"measured on {run.machine.backend.device}"
                run.machine.timeline.save(temp / "timeline.json", what, label(config.policy), setup)

        store.put(folder, fill)
        return folder


def _table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)


def write_trace(
    path: Path,
    live: Live,
    requests: Sequence[Served],
    loaded: Loaded,
    model: Offloaded,
    asked: Asked,
    decoding: Mapping[str, Any],
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
            decoding=dict(decoding),
            recording="recorded",
            prompts=Prompts(asked.name, "; ".join(asked.licences) or None),
            expert_bytes=[model.store.layout.nbytes] * len(moe.layers),
            shapes=model.shapes,
            dtype=str(loaded.model.dtype).removeprefix("torch."),
            scoring=moe.scoring,
            priced_as=None,
        )
