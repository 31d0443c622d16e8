"""A model's folder is what somebody else wrote: whatever is wrong with it is one line, and no code in it runs."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from tests.traces.models.tiny import configured, save_with_tokenizer, tiny
from traces import UserError, open_trace
from traces.cli import main
from traces.models.load import load

ROUTER = "model.layers.1.mlp.gate.weight"
CODE = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\nclass Evil: pass\nclass EvilConfig: pass\n"


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def weights(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    """What changes the tensors of a folder."""

    def edit(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return edit


def setting(**changed: Any) -> Callable[[Path], Any]:
    """What changes the configuration of a folder."""
    return lambda folder: configured(folder, **changed)


def holding(name: str, content: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(content)


def without(*names: str) -> Callable[[Path], Any]:
    return lambda folder: [(folder / name).unlink() for name in names]


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def dangling(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("nowhere")


EXPERT = "model.layers.2.mlp.experts.3.down_proj.weight"
BROKEN: list[tuple[Callable[[Path], Any], str]] = [
    (weights(lambda w: w.pop(ROUTER)), f"config.json disagree in a tensor: {ROUTER} is missing"),
    (weights(lambda w: w.pop(EXPERT)), r"down_proj is \[7, 32, 24\], not \[8, 32, 24\]"),
    (weights(lambda w: w.update({EXPERT: w[EXPERT][1:].contiguous()})), "config.json disagree in a tensor's shape"),
    (setting(num_hidden_layers=5), r"disagree in 11 tensors, such as model.layers.4.\S+ is missing"),
    (setting(hidden_size=64), r"disagree in \d+ tensors, such as lm_head.weight is \[300, 32\], not \[300, 64\]"),
    (setting(hidden_size="wide"), "cannot be loaded from this machine: .*hidden_size"),
    (setting(num_attention_heads=0), "cannot be loaded from this machine: ZeroDivisionError"),
    (setting(model_type="switch_transformers"), "is of type 'switch_transformers', an encoder with a decoder; allowed"),
    (setting(model_type="qwen3_vl_moe"), "is of type 'qwen3_vl_moe', of which the library has no language model"),
    (setting(model_type="jetmoe"), "is of type 'jetmoe', which cannot be recorded: its attention is routed"),
    (holding("config.json", b"[]"), "cannot be loaded from this machine: ValueError: Unrecognized model"),
    (holding("model.safetensors", b""), "cannot be loaded from this machine: SafetensorError: .*header too small"),
    (holding("tokenizer.json", b"{}"), "cannot be loaded from this machine: KeyError: 'added_tokens'"),
    (dangling, "cannot be loaded from this machine: FileNotFoundError"),
    (without("config.json"), "has no config.json; allowed"),
    (pickled, r"has no \*.safetensors; .*pickled weights are not read"),
    (without("tokenizer.json", "tokenizer_config.json"), "has no tokenizer; allowed"),
]


@pytest.mark.parametrize(("breaks", "message"), BROKEN)
def test_a_broken_folder_is_refused(folder: Path, breaks: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above all one that lacks a tensor: the library would draw it at random and go on."""
    breaks(folder)
    said: list[logging.LogRecord] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", said.append)
    monkeypatch.setattr(logging.getLogger("transformers"), "handlers", [handler])
    with pytest.raises(UserError, match=message) as caught:
        load(str(folder), "auto", "cpu")
    assert str(caught.value).startswith(f"model='{folder}'")
    assert "\n" not in str(caught.value)
    assert said == []


def test_a_model_without_a_name_is_not_the_folder_we_are_in(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(saved)
    with pytest.raises(UserError, match="model='' cannot be loaded"):
        load("", "auto", "cpu")
    assert load(".", "auto", "cpu").name == "tiny-olmoe"


def test_tensors_that_are_not_used_are_said(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    transformers.utils.logging.set_verbosity_warning()
    weights(lambda w: w.update({"model.layers.4.extra": torch.ones(2)}))(folder)
    load(str(folder), "auto", "cpu")
    said = "not used: 1 tensors of the model's files, such as model.layers.4.extra\n"
    assert capfd.readouterr().err == said
    assert transformers.utils.logging.get_verbosity() == logging.WARNING


@pytest.mark.parametrize("kind", ["nobody_knows", "olmoe"])
def test_code_in_the_folder_never_runs(folder: Path, kind: str) -> None:
    (folder / "evil.py").write_text(CODE)
    setting(model_type=kind, auto_map={"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.Evil"})(folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}))
    if kind == "olmoe":
        load(str(folder), "auto", "cpu")  # the library has code of its own for it
    else:
        with pytest.raises(UserError, match="cannot be loaded from this machine"):
            load(str(folder), "auto", "cpu")
    assert not (folder / "ran").exists()


def record(folder: Path, text: str, out: Path, *more: str) -> int:
    prompts = out.with_name("p.txt")
    prompts.write_text(text)
    common = ["threads=1", "device=cpu", "overhead=0", "max_new_tokens=3"]
    return main(["collect", f"model={folder}", f"prompts={prompts}", f"out={out}", *common, *more])


def test_a_token_that_the_model_does_not_have(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a GPU, looking it up would end the process."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<word {index}>" for index in range(60)])
    tokenizer.save_pretrained(folder)
    assert record(folder, "fine\n<word 59>\n", tmp_path / "t") == 2
    assert "p.txt, line 2: the tokenizer gives token 315; allowed: 0 to 299, the model's" in capsys.readouterr().err
    assert record(folder, "fine\n<word 43>\n", tmp_path / "t") == 0


@pytest.mark.parametrize("batch", [1, 2])
def test_weights_that_are_no_numbers(
    folder: Path, tmp_path: Path, batch: int, capsys: pytest.CaptureFixture[str]
) -> None:
    weights(lambda w: w[ROUTER].fill_(torch.nan))(folder)
    assert record(folder, "one\ntwo\n", tmp_path / "t", f"batch={batch}") == 2
    where = "line 1 and the 1 after it" if batch == 2 else "line 1"
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == f"error: layer 1: a score is not a number (olmoe in torch.float32, p.txt, {where})"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["model", "p.txt"]


def test_a_name_that_no_manifest_holds_is_refused_before_anything_is_recorded(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "two\nlines"))
    assert record(folder, "one\n", tmp_path / "t") == 2
    assert "model.name is 'two\\nlines'; allowed: printable text" in (said := capsys.readouterr().err)
    assert "recorded" not in said
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["p.txt", "two\nlines"]


def test_end_tokens_that_are_none(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "generation_config.json").write_text('{"eos_token_id": "x"}')
    assert record(folder, "one\n", tmp_path / "t") == 2
    assert "eos_token_id='x' in generation_config.json; allowed: a token's number" in capsys.readouterr().err


def test_several_tokens_may_end_a_text(folder: Path, tmp_path: Path) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": list(range(300))}))
    assert record(folder, "one\ntwo\n", tmp_path / "t", "batch=2") == 0
    assert [request.output_tokens for request in open_trace(tmp_path / "t").requests] == [1, 1]


def test_a_trace_is_priced_as_a_model_of_its_sizes(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert record(saved, "one\n", tmp_path / "t", "priced_as=olmoe_1b_7b") == 2
    alike = "priced_as='olmoe_1b_7b'; allowed for a model of moe_layers 4, experts 8, top_k 3: none"
    assert alike in capsys.readouterr().err
    mixtral = save_with_tokenizer(tiny("mixtral", num_hidden_layers=32, num_experts_per_tok=2), tmp_path / "mixtral")
    assert record(mixtral, "one\n", tmp_path / "t", "priced_as=nobody") == 2
    assert "allowed for a model of moe_layers 32, experts 8, top_k 2: mixtral_8x7b" in capsys.readouterr().err
    assert record(mixtral, "one\n", tmp_path / "t", "priced_as=mixtral_8x7b") == 0
    assert open_trace(tmp_path / "t").manifest.priced_as == "mixtral_8x7b"
