"""Turn a checkpoint into the shipped model: bfloat16 safetensors, a tokenizer and the provenance.

python -m traces.tiny_moe.export [folder=.text] [out=traces/tiny_moe/model] [windows=24]
"""

import json
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedTokenizerFast
from transformers import __version__ as transformers_version

from traces.kit.command import run_module
from traces.kit.conf import MODEL_DIR
from traces.kit.errors import UserError
from traces.kit.strict import dump_json
from traces.kit.whole import write_whole
from traces.models.load import load, weights_digest
from traces.tiny_moe import Folder, Windows
from traces.tiny_moe.evaluate import evaluate
from traces.tiny_moe.tokens import END_OF_TEXT
from traces.tiny_moe.train import build

SHARD = "15MB"
MAX_BYTES = 30 << 20
CURVE_POINTS = 60


@dataclass(frozen=True)
class Options:
    """Turns a checkpoint into the shipped model, with its provenance; runs the evaluation."""

    folder: Folder = Path(".text")
    out: Annotated[Path, "the model's folder"] = MODEL_DIR
    windows: Windows = 24


def compact(text: str) -> str:
    """JSON without white space between its parts."""
    return json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":")) + "\n"


def export(options: Options) -> None:
    """Write model, tokenizer and provenance.json into `out`; the figures are those of the rounded weights."""
    folder, out = options.folder, options.out
    checkpoint = folder / "run" / "checkpoint.pt"
    if not checkpoint.exists():
        raise UserError(f"{checkpoint} is missing: run python -m traces.tiny_moe.train first")
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model = build(seed=0)
    model.load_state_dict(state["model"])
    nn.Module.to(model, torch.bfloat16)
    for old in out.glob("*.safetensors*"):
        old.unlink()
    model.save_pretrained(out, max_shard_size=SHARD)
    bpe = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer: Any = PreTrainedTokenizerFast
    tokenizer(tokenizer_object=bpe, eos_token=END_OF_TEXT).save_pretrained(out)
    for file in (*out.glob("*.safetensors.index.json"), out / "tokenizer.json"):
        file.write_text(compact(file.read_text(encoding="utf-8")), encoding="utf-8")  # a third of the bytes

    shipped = load(str(out), "float32", "cpu")
    run, settings = state["run"], state["options"]
    tokens = run["step"] * settings["batch"] * settings["length"]
    curve = run["curve"][:: max(1, len(run["curve"]) // CURVE_POINTS)]
    record = {
        "command": " ".join(["python -m traces.tiny_moe.train", *state["command"]]),
        "settings": {key: value for key, value in settings.items() if key != "folder"},
        "tokens_trained": tokens,
        "tokens_per_s": round(tokens / run["elapsed_s"]),
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "transformers": transformers_version,
        },
        "text": json.loads((folder / "sources.json").read_text()),
        "loss_curve": [[point["tokens"], round(point["loss"], 3)] for point in curve],
        "weights": weights_digest(out),
        "parameters": sum(p.numel() for p in model.parameters()),
        "evaluation": evaluate(shipped.model, folder, options.windows),
    }
    write_whole(out / "provenance.json", dump_json(record))
    size = sum(file.stat().st_size for file in out.iterdir())
    if size > MAX_BYTES:
        raise UserError(f"{out} holds {size} bytes; allowed: {MAX_BYTES}")
    print(f"wrote {out}: {size} bytes", file=sys.stderr)


if __name__ == "__main__":
    run_module(export)
