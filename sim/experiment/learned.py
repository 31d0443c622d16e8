"""What policies learn whatever the budget, kept beside the results: learned once for all budgets of a sweep.

A folder like a cell's, ``learned-POLICY-KEY``: ``learned.json`` with what the key is made of, facts, and the hash of
``learned.npz``, the arrays. No pickle: numbers and truths alone.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from policies.api import History, Learned, Policy, Shapes
from sim.experiment.cell import Cell
from sim.experiment.provenance import code_digest
from sim.results.document import SCHEMA
from sim.results.store import Store
from traces.kit.errors import UserError

DOCUMENT, ARRAYS = "learned.json", "learned.npz"
REMOVE = "remove the folder, and it is learned again"


class Lessons:
    """Recalls what a cell's policies have learned, from ``store`` where there is one, and from other cells of a job."""

    def __init__(self, cell: Cell, store: Store | None = None) -> None:
        self.cell, self.store = cell, store

    def __call__(self, policy: Policy, history: History) -> Learned:
        """What the policy's ``learn`` says of the train requests. UserError for a folder that was changed."""
        about = self._about(policy)
        key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
        known = self.cell.inputs.learned
        if key not in known:
            found = self._kept(policy, history, f"learned-{policy.name}-{key}", about)
            if not self.cell.inputs.keep:
                return found
            known[key] = found
        return known[key]

    def _about(self, policy: Policy) -> dict[str, Any]:
        """All that it depends on."""
        return {
            "policy": policy.name,
            "given": dict(policy.learns_by()),
            "shapes": Shapes.of(policy.setup)._asdict(),
            "signals": sorted(policy.needs()),
            "trace": self.cell.trace.sha256,
            "train": list(self.cell.selection.train),
            "code": code_digest(policy.name),
        }

    def _kept(self, policy: Policy, history: History, name: str, about: Mapping[str, Any]) -> Learned:
        def learn() -> Learned:
            return _frozen(policy.learn(Shapes.of(policy.setup), history, policy.learns_by()))

        if self.store is None:
            return learn()
        store, folder, made = self.store, self.store.folder(name), list[Learned]()

        def make() -> dict[str, Any]:
            made.append(learn())
            content, packed = _packed(made[0], about)

            def fill(temp: Path) -> None:
                (temp / DOCUMENT).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
                (temp / ARRAYS).write_bytes(packed)

            store.put(folder, fill)
            return content

        content, _ = store.once(folder, DOCUMENT, make)
        return made[0] if made else _read(folder, content)


def _packed(learned: Learned, about: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
    packed = io.BytesIO()
    arrays: dict[str, Any] = {name: np.asarray(array) for name, array in learned.arrays.items()}
    np.savez(packed, **arrays)
    told = {name: [str(array.dtype), list(array.shape)] for name, array in sorted(learned.arrays.items())}
    sha256 = hashlib.sha256(packed.getvalue()).hexdigest()
    content = {"schema": SCHEMA, "about": dict(about), "facts": dict(learned.facts), "arrays": told, "sha256": sha256}
    return content, packed.getvalue()


def _read(folder: Path, content: Mapping[str, Any]) -> Learned:
    try:
        packed = (folder / ARRAYS).read_bytes()
    except OSError as error:
        raise UserError(f"{folder / ARRAYS}: cannot be read ({error.strerror}); {REMOVE}") from None
    if hashlib.sha256(packed).hexdigest() != content.get("sha256"):
        raise UserError(f"{folder / ARRAYS}: not what {DOCUMENT} says it is; {REMOVE}")
    with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
        return _frozen(Learned({name: arrays[name] for name in arrays.files}, dict(content["facts"])))


def _frozen(learned: Learned) -> Learned:
    """Nobody who recalls it changes it for others. TypeError for arrays of objects."""
    arrays = {}
    for name, given in learned.arrays.items():
        array = np.asarray(given)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"what was learned has {name} of {array.dtype}; allowed: numbers and truths")
        arrays[name] = array.view()
        arrays[name].flags.writeable = False
    return Learned(arrays, json.loads(json.dumps(dict(learned.facts), allow_nan=False)))
