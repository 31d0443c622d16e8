"""A picture of a validation; the drawing is the report's too, and so lies in ``sim``.

``python -m real.validation.plot NAME.json`` draws NAME.png again.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from traces.kit.errors import UserError


def draw(document: Mapping[str, Any]) -> bytes:
    """A PNG. ImportError where matplotlib is absent."""
    from sim.results.pictures.measured import measured
    from traces.kit.drawing import few_colours, png

    return few_colours(png(measured(document), 100))


def main(words: Sequence[str]) -> int:
    """Draw the pictures of documents again. UserError for what is none."""
    from traces.kit.whole import write_whole

    for word in words:
        path = Path(word)
        try:
            document = json.loads(path.read_bytes())
            write_whole(path.with_suffix(".png"), draw(document))
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from None
        except (KeyError, TypeError, AttributeError, ValueError):
            raise UserError(f"{path}: not a validation that this version reads") from None
    return 0


if __name__ == "__main__":
    from traces.kit.command import guarded

    sys.exit(guarded(lambda: main(sys.argv[1:])))
