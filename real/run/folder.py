"""What a device's run leaves: a folder, and a table."""

import csv
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from real.run.session import Session
from sim.core.log import save
from sim.results.label import label
from sim.results.store import Store, layer_rows, request_rows
from traces.kit.strict import dump_json


def keep(out: Path, session: Session, document: Mapping[str, Any], *, timeline: bool) -> Path:
    """Write the folder of a run, whole or not at all; returns it."""
    store, policy, setup = Store(out), session.run.core.policy, session.cell.setup
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
    folder = store.folder(f"real-{policy.name}-{setup.budget}-{stamp}")

    def fill(temp: Path) -> None:
        (temp / "result.json").write_text(dump_json(document), encoding="utf-8")
        _table(temp / "requests.csv", request_rows(session.run.outcome))
        _table(temp / "layers.csv", layer_rows(session.run.outcome))
        config = yaml.safe_dump(asdict(session.cell.config), sort_keys=False)
        (temp / "config.yaml").write_text(config, encoding="utf-8")
        save(session.run.core.log, temp / "log.npy")
        if session.made is not None:
            shutil.copytree(Path(session.made.name) / "trace", temp / "trace")
        if session.texts:
            lines = [json.dumps({"request": i, "text": text}) for i, text in enumerate(session.texts)]
            (temp / "texts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        if timeline:
            what, name = f"measured on {session.run.machine.backend.device}", label(session.cell.config.policy)
            session.run.machine.timeline.save(temp / "timeline.json", what, name, setup)

    store.put(folder, fill)
    return folder


def show(document: Mapping[str, Any], form: str) -> None:
    """Write a result to stdout: as a table, or as the content of result.json."""
    try:
        from sim.experiment.words import report

        report(document, form)
    except ImportError:  # without rich
        sys.stdout.write(dump_json(document))


def _table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)
