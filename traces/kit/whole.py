"""Write a file whole or not at all."""

from __future__ import annotations

import secrets
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """The file with this content, or as it was before. OSError where it cannot be written, which names ``path``."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        part.replace(path)
    except OSError as error:
        # The user knows nothing of the other name.
        raise type(error)(error.errno, error.strerror, str(path)) from None
    finally:
        part.unlink(missing_ok=True)
