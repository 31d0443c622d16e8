"""Small traces, a way to forge one whose hashes still agree, and tiny models of each family."""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.traces.tiny_trace import MANIFEST, SIGNALS, E, K, L, draw
from traces import DECODE, PREFILL, Request, TraceWriter

FAMILIES = ("olmoe", "mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v2", "deepseek_v2_greedy", "deepseek_v3")
FAMILIES += ("gpt_oss", "phimoe", "granitemoe", "glm4_moe")
MORE = ("afmoe", "deepseek_v4", "ernie4_5_moe", "gemma4", "hy_v3", "llama4", "longcat_flash", "minimax_m2")


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


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny matrices: a second thread of torch only waits."""
    if (torch := sys.modules.get("torch")) is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """The name of each family's tiny model."""
    return str(request.param)


@pytest.fixture
def model(family: str) -> Any:
    """A tiny random model of each family."""
    from tests.traces.models.tiny import tiny

    return tiny(family)


@pytest.fixture(params=[*FAMILIES, *MORE])
def any_model(request: pytest.FixtureRequest) -> Any:
    """A tiny random model of each family that has sums done by hand."""
    from tests.traces.models.tiny import there, tiny

    return tiny(there(request.param))


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny OLMoE on disk, with its tokenizer."""
    from tests.traces.models.tiny import save_with_tokenizer, tiny

    return save_with_tokenizer(tiny("olmoe"), tmp_path_factory.mktemp("models") / "tiny-olmoe")
