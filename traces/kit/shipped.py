"""Where what is shipped lies: the reference model, its prompts, and the sample trace."""

from pathlib import Path

_TRACES = Path(__file__).resolve().parents[1]
REFERENCE_DIR = _TRACES / "reference"
MODEL_DIR = REFERENCE_DIR / "model"
PROMPTS_FILE = REFERENCE_DIR / "prompts.jsonl"
SAMPLE_DIR = _TRACES / "sample"
