"""Keys that several commands have: one name, one meaning (CONTRIBUTING.md has the table)."""

from __future__ import annotations

from typing import Annotated, Literal

from traces.kit.words import Between

MOST = 2**31 - 1
"""What is counted in int32, steps say, goes no further."""

Format = Annotated[Literal["table", "json"], ""]
Threads = Annotated[int, Between(0, 4096), "of the CPU; 0: torch's choice"]
Device = Annotated[str, "auto | cpu | cuda | cuda:N"]
Overwrite = Annotated[bool, "replace what has that name"]
Weights = Annotated[Literal["auto", "random"], "the checkpoint's, or random ones of the model's shape"]
"""Shared by commands that run a model."""
