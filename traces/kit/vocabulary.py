"""Keys that several commands have: one name, one meaning (CONTRIBUTING.md has the table)."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from traces.kit.errors import UserError
from traces.kit.units import parse_bytes
from traces.kit.words import Between, folder

MOST = 2**31 - 1
"""What is counted in int32, steps say, goes no further."""

Format = Annotated[Literal["table", "json"], ""]
Threads = Annotated[int, Between(0, 4096), "of the CPU; 0: torch's choice"]
Out = Annotated[Path, folder, "where results go, a folder for each"]
Device = Annotated[str, "auto | cpu | cuda | cuda:N"]


def memory(value: str) -> int | None:
    """A mark: bytes of the host; none given, what is free."""
    return parse_bytes(value, "host_memory") if value else None


HostMemory = Annotated[
    int | None, memory, "what the host has for the model, such as 110GB, where it shows less as free"
]


def new_profile(value: str) -> Path:
    """A mark: a profile yet to be written."""
    path = Path(value)
    if path.suffix not in (".yaml", ".yml") or not path.parent.is_dir() or os.path.lexists(path):
        raise ValueError("FILE.yaml, yet to be written, in an existing folder")
    return path


def new_picture(value: str) -> Path:
    """A mark: a picture to be drawn."""
    path = Path(value)
    if path.suffix not in (".svg", ".png") or not path.parent.is_dir() or path.is_dir():
        raise ValueError("FILE.svg or FILE.png in an existing folder")
    return path


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """How a model continues a prompt. UserError for what greedy decoding has no use for."""

    decoding: str
    temperature: Annotated[float, Between(1e-3, 1e3), "of sampled decoding"] = 1.0
    top_p: Annotated[float, Between(1e-3, 1), "of sampled decoding"] = 1.0

    def __post_init__(self) -> None:
        for key in ("temperature", "top_p"):
            if self.decoding != "sampled" and getattr(self, key) != 1:
                raise UserError(f"{key}={getattr(self, key):g}: is for decoding=sampled, not {self.decoding}")
