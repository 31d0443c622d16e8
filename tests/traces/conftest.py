"""Small traces, and a way to forge one whose hashes still agree."""

import hashlib
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tests.traces.tiny_trace import MANIFEST, SIGNALS, E, K, L, draw
from traces import DECODE, PREFILL, Request, TraceWriter


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out the modules that import torch where the extra 'hf' is not installed."""
    if collection_path.suffix == ".py" and not all(map(find_spec, ("torch", "transformers"))):
        return "\nimport torch" in collection_path.read_text(encoding="utf-8") or None
    return None


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A trace of three requests with every signal: 4 prompt tokens each, and 0, 1, 2 decode steps."""
    rng = np.random.default_rng(0)
    target = tmp_path / "tiny"
    with TraceWriter(target, n_layers=L, n_experts=E, top_k=K, signals=SIGNALS) as out:
        for number in range(3):
            steps = [(PREFILL, 4, 0)] + [(DECODE, 1, 4 + index) for index in range(number)]
            request = Request(number, 4, number + 1, number / 2, "train" if number else "test", 'a, "b"')
            out.add_request(request, steps=steps, **draw(rng, 4 + number, out.absent))
        out.close(**MANIFEST)
    return target


Forge = Callable[[Path, str, bytes], None]


@pytest.fixture
def forge() -> Forge:
    """Replace a file of a trace and make its hash and size in trace.json agree: only the content is wrong."""

    def replace(folder: Path, name: str, content: bytes) -> None:
        (folder / name).write_bytes(content)
        document = json.loads((folder / "trace.json").read_bytes())
        document["files"][name] |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        (folder / "trace.json").write_text(json.dumps(document))

    return replace


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Public recordings beside the repository, which it does not ship."""
    folder = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here: public recordings that the project does not ship")
    return folder
