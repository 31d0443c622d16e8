"""Loading straight into host memory: the same bits as the library's own loading, and never a second copy."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from real.runtime import models
from real.runtime.host import Host
from real.runtime.models import ONE_BY_ONE, open_checkpoint, open_model
from real.runtime.offloaded import Offloaded
from real.runtime.store import HostStore, block_of, same_layout
from tests.real.runtime.rig import CPU, torch
from tests.traces.models.tiny import FAMILIES as MODELS
from tests.traces.models.tiny import save_with_tokenizer, tiny
from traces.kit.errors import UserError
from traces.models.families import inspect_model
from traces.models.load import load


def saved_as(model: Any, folder: Path, fused: bool) -> Path:
    """A checkpoint with a tensor for each expert's projection, as published ones are, or as the module has them."""
    save_with_tokenizer(model, folder)
    if fused:
        model.save_pretrained(folder, save_original_format=False)
    return folder


def tensors_of(model: Any) -> dict[str, Any]:
    """All parameters and all buffers, those too that are in no checkpoint."""
    every = {"remove_duplicate": False}
    return dict(model.named_parameters(**every)) | dict(model.named_buffers(**every))


def assert_same(ours: Any, theirs: Any) -> None:
    mine, its = tensors_of(ours), tensors_of(theirs)
    assert mine.keys() == its.keys()
    for name, tensor in its.items():
        assert (mine[name].dtype, mine[name].requires_grad) == (tensor.dtype, tensor.requires_grad), name
        assert torch.equal(mine[name], tensor), name
    shared = {name for name, tensor in its.items() if sum(tensor is other for other in its.values()) > 1}
    assert shared == {name for name, tensor in mine.items() if sum(tensor is other for other in mine.values()) > 1}


@pytest.mark.parametrize("fused", [False, True], ids=["per_expert", "fused"])
def test_the_same_bits_as_the_library_s(family: str, fused: bool, tmp_path: Path) -> None:
    """In the stored type and in another one, with tied weights and without; the store takes the blocks as they are.

    Half of these per expert and half of them fused, of the next family the other way round.
    """
    every = (
        (torch.float32, "auto", False),
        (torch.float32, "bfloat16", True),
        (torch.bfloat16, "bfloat16", False),
        (torch.bfloat16, "float32", False),
    )
    for stored, asked, tied in every[(list(MODELS).index(family) + fused) % 2 :: 2]:
        folder = saved_as(tiny(family, tie_word_embeddings=tied).to(stored), tmp_path / f"{stored}-{asked}", fused)
        ours = open_checkpoint(str(folder), asked, Host()).model
        theirs = AutoModelForCausalLM.from_pretrained(str(folder), dtype=asked).eval()
        assert_same(ours, theirs)
        assert (ours.lm_head.weight is ours.get_input_embeddings().weight) == tied
        experts, its = ([layer.experts for layer in inspect_model(model).layers] for model in (ours, theirs))
        layout = same_layout(experts)
        blocks: list[Any] = [block_of(module, layout) for module in experts]
        store, expected = (HostStore(modules, pinned=False) for modules in (experts, its))
        assert all(block.data_ptr() == own.data_ptr() for block, own in zip(store.blocks, blocks, strict=True))
        assert all(torch.equal(block, wanted) for block, wanted in zip(store.blocks, expected.blocks, strict=True))


def test_what_the_library_computes_with_them_is_the_same(family: str, tmp_path: Path) -> None:
    """Before a store takes them: prompts are recorded with the model as it is."""
    folder = save_with_tokenizer(tiny(family), tmp_path / "model")
    ours = open_checkpoint(str(folder), "bfloat16", Host()).model
    theirs = AutoModelForCausalLM.from_pretrained(str(folder), dtype="bfloat16").eval()
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        assert torch.equal(ours(ids).logits, theirs(ids).logits)


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hook and the variable are of the loading alone, also where it fails."""
    folder = save_with_tokenizer(tiny("olmoe"), tmp_path / "model")
    for before in (None, "0"):
        monkeypatch.delenv(ONE_BY_ONE, raising=False)
        if before is not None:
            monkeypatch.setenv(ONE_BY_ONE, before)
        open_checkpoint(str(folder), "auto", Host())
        assert os.environ.get(ONE_BY_ONE) == before
        with pytest.raises(UserError, match="weights take"):
            open_checkpoint(str(folder), "auto", Host(1))
        assert os.environ.get(ONE_BY_ONE) == before
    assert not torch.nn.modules.module._global_parameter_registration_hooks


def test_where_the_library_goes_another_way_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A version that sets its parameters otherwise: the same bits, in memory that may be needed twice."""
    folder = save_with_tokenizer(tiny("olmoe"), tmp_path / "model")
    monkeypatch.setattr(models.Intake, "_registered", lambda *_: None)
    ours = open_checkpoint(str(folder), "auto", Host()).model
    said = "the library loads 4 of 4 layers' experts in its own way; they may need host memory twice for a while\n"
    assert capsys.readouterr().err == f"model={folder}: {said}"
    assert_same(ours, AutoModelForCausalLM.from_pretrained(str(folder)))
    Offloaded(ours, CPU)


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    def edit(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return edit


EXPERT = "model.layers.2.mlp.experts.3.down_proj.weight"


@pytest.mark.parametrize(
    "breaks",
    [
        edited(lambda w: w.pop(EXPERT)),
        edited(lambda w: [w.pop(key) for key in list(w) if "layers.2.mlp.experts" in key]),
        edited(lambda w: w.update({EXPERT: w[EXPERT][1:].contiguous()})),
        edited(lambda w: w.pop("model.layers.1.mlp.gate.weight")),
        edited(lambda w: w.update({"model.layers.4.extra": torch.ones(2)})),
        lambda folder: (folder / "model.safetensors").write_bytes(b""),
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
        lambda folder: (folder / "config.json").write_text("[]"),
        lambda folder: [(folder / name).unlink() for name in ("tokenizer.json", "tokenizer_config.json")],
    ],
    ids=["an_expert", "a_layer_s", "a_shape", "a_router", "unexpected", "empty", "pickled", "config", "no_tokenizer"],
)
def test_what_load_refuses_is_refused_in_its_words(
    breaks: Callable[[Path], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_with_tokenizer(tiny("olmoe"), tmp_path / "model")
    breaks(folder)
    said = []
    for way in (lambda: load(str(folder), "auto", "cpu"), lambda: open_checkpoint(str(folder), "auto", Host())):
        try:
            way()
            answer = ""
        except UserError as error:
            answer = str(error)
        said.append((answer, capsys.readouterr().err))
    assert said[0] == said[1] != ("", "")


def test_a_host_without_room_is_told_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_with_tokenizer(tiny("olmoe"), tmp_path / "model")
    rooms = iter([1 << 30, 1000])  # for the weights in all, and for the experts
    with pytest.raises(UserError, match=r"^the experts take 295 KB of host memory, and 1 KB are free"):
        open_checkpoint(str(folder), "auto", Host(free=lambda: next(rooms)))
    with pytest.raises(UserError, match=r"^host_memory=100 KB: the experts take 147 KB; allowed"):  # in bfloat16
        Offloaded(open_model(str(folder), "bfloat16", "random"), CPU, host=Host(100_000))
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", None)
    with pytest.raises(UserError, match=r"^host_memory=100 KB: the model's weights take 4\d\d KB"):
        open_model(str(folder), "auto", "auto", host=Host(100_000))


# -- a second copy ------------------------------------------------------------------------------------------------

LARGE = MODELS["olmoe"][1] | {"hidden_size": 1024, "intermediate_size": 1024, "num_hidden_layers": 20}
LARGE |= {"num_attention_heads": 8, "num_key_value_heads": 8, "num_experts": 16, "num_experts_per_tok": 2}
INDEX = "model.safetensors.index.json"

PEAK = """
import sys, threading
import torch
from real.runtime.host import Host
from real.runtime.models import open_checkpoint
from real.runtime.offloaded import Offloaded

def anonymous():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

torch.set_num_threads(1)
open_checkpoint("tiny-moe", "bfloat16", Host())
before = most = anonymous()
ended = threading.Event()

def watch():
    global most
    while not ended.wait(0.005):
        most = max(most, anonymous())

watcher = threading.Thread(target=watch)
watcher.start()
model = Offloaded(open_checkpoint(sys.argv[1], "float16", Host()).model, torch.device("cpu"))
ended.set()
watcher.join()
print(model.store.nbytes, most - before, anonymous() - before)
"""


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Path]:
    """2.2 GB in four shards, as the library saves them; deleted at once after use."""
    folder = save_with_tokenizer(tiny("olmoe"), tmp_path / "large")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("olmoe", **LARGE), dtype=torch.bfloat16)
    model.to_empty(device="cpu")
    row = torch.randn(1024).to(torch.bfloat16)
    for index, parameter in enumerate(model.parameters()):
        parameter.data.copy_(row.roll(index)[: parameter.shape[-1]].expand_as(parameter))
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="600MB")
    del model
    yield folder
    shutil.rmtree(folder)


@pytest.mark.ci
def test_loading_takes_no_second_copy(large: Path) -> None:
    """Converted to another type of the same size, so that each tensor is made anew: the most anonymous memory that
    loading takes is the checkpoint's size and a seventh. Pages of mapped files are not anonymous."""
    files = sorted(large.glob("*.safetensors"))
    assert len(files) == 4
    size = sum(file.stat().st_size for file in files)
    assert 2 * 10**9 < size < 3 * 10**9
    assert any(".experts.3.gate_proj.weight" in name for name in json.loads((large / INDEX).read_text())["weight_map"])
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "HF_HUB_OFFLINE": "1"}
    words = [sys.executable, "-c", PEAK, str(large)]
    child = subprocess.run(words, env=env, check=True, capture_output=True, text=True)
    experts, most, left = map(int, child.stdout.split())
    assert experts == 20 * 16 * 3 * 1024 * 1024 * 2
    assert experts < left < 1.01 * size
    assert most <= 1.15 * size, f"{most / size:.3f} of the checkpoint's size"
