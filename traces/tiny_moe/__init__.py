"""tiny-moe: a small OLMoE trained here, so that real routing is at hand without a download."""

from pathlib import Path
from typing import Annotated

from traces.kit.vocabulary import MOST
from traces.kit.words import Between

Folder = Annotated[Path, "of the text, the tokenizer, the token arrays and the checkpoint"]
Windows = Annotated[int, Between(1, MOST), "of held-out text, per domain"]
