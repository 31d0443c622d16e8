"""The reference model: a small OLMoE trained here, so that real routing is at hand without a download."""

from __future__ import annotations

from pathlib import Path

REFERENCE_DIR = Path(__file__).parent
MODEL_DIR = REFERENCE_DIR / "model"
PROMPTS_FILE = REFERENCE_DIR / "prompts.jsonl"
SAMPLE_DIR = REFERENCE_DIR.parent / "sample"
