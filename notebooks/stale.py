"""What a notebook says now, beside what it said when its outputs were saved."""

import base64
import io
from collections.abc import Iterator, Mapping
from difflib import unified_diff
from itertools import zip_longest
from typing import Any

import nbformat
import numpy as np
from PIL import Image

BLOCK = 4
"""Pixels a side that are averaged: what another release does to the edge of a line is no difference."""
APART = 24
"""Of 255 levels of grey, between the averages of a block."""


def differences(saved: nbformat.NotebookNode, fresh: nbformat.NotebookNode) -> Iterator[str]:
    """In words, each output of ``fresh`` that is not the one in ``saved``; both tidied.

    Texts and tables are compared to the letter, pictures as the eye does.
    """
    for i, (old, new) in enumerate(zip_longest(saved.cells, fresh.cells)):
        if old is None or new is None or old.source != new.source:
            yield f"cell {i}: not the same cell"
            continue
        for before, after in zip_longest(old.get("outputs", ()), new.get("outputs", ())):
            if said := _difference(_contents(before), _contents(after)):
                yield f"cell {i}: {said}"


def _contents(output: Mapping[str, Any] | None) -> dict[str, str]:
    """By kind; a stream's or an error's text under its name."""
    if output is None:
        return {}
    if "data" in output:
        return dict(output["data"])
    return {str(output.get("name", output["output_type"])): str(output.get("text", output.get("evalue", "")))}


def _difference(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    if before.keys() != after.keys():
        return f"{', '.join(before) or 'nothing'} before, {', '.join(after) or 'nothing'} now"
    for kind, old in before.items():
        new = after[kind]
        if kind == "image/png":
            if said := _pictures(base64.b64decode(old), base64.b64decode(new)):
                return said
        elif old != new:
            return "\n".join(unified_diff(old.splitlines(), new.splitlines(), "saved", "fresh", "", "", 0, ""))
    return ""


def _pictures(old: bytes, new: bytes) -> str:
    if old == new:
        return ""
    before, after = _averages(old), _averages(new)
    if before.shape != after.shape:
        return "a picture of another size"
    worst = float(np.abs(before - after).max())
    return f"a picture that differs by {worst:.0f} of 255 levels of grey" if worst > APART else ""


def _averages(png: bytes) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Each colour [h, w, 3], averaged over blocks."""
    with Image.open(io.BytesIO(png)) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=np.float64)
    h, w = (n - n % BLOCK for n in pixels.shape[:2])
    return pixels[:h, :w].reshape(h // BLOCK, BLOCK, w // BLOCK, BLOCK, 3).mean(axis=(1, 3))
