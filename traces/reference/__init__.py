"""The reference model: a small OLMoE trained here, so that real routing is at hand without a download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from traces.kit.vocabulary import MOST
from traces.kit.words import Between

REFERENCE_DIR = Path(__file__).parent
MODEL_DIR = REFERENCE_DIR / "model"
PROMPTS_FILE = REFERENCE_DIR / "prompts.jsonl"
SAMPLE_DIR = REFERENCE_DIR.parent / "sample"

Folder = Annotated[Path, "of the text, the tokenizer, the token arrays and the checkpoint"]
Windows = Annotated[int, Between(1, MOST), "of held-out text, per domain"]
