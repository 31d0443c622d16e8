"""Routing for a question that nobody has recorded any for: drawn of the model's shape, once, into a cache folder."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from sim.prices import ModelProfile
from traces.kit import conf
from traces.kit.errors import UserError
from traces.kit.whole import held, writable
from traces.synthesize.augment import RECALL
from traces.synthesize.figures import DEFAULT, read_figures, shipped_figures
from traces.synthesize.plan import plan_of
from traces.synthesize.signals import least_recall
from traces.synthesize.synthesize import Model, synthesize
from traces.synthesize.words import MADE, Synthesize
from traces.version import __version__

ROWS = 2048
"""Tokens of all measured requests together: with more, a plan would take longer than people wait."""
OUTPUT = 32
"""Generated tokens of a request: a mean over few of them, while its prompt fills the caches."""
OTHERS = ("deepseek_v2_lite", "gpt_oss_20b", "qwen3_8_flash_next")
"""Kinds of routing beside the model's own, of recordings: local, likewise, and flat."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """The requests that are drawn: as many are measured as are active at once (at least two), one is learned from."""

    measured: int
    prompt: int
    output: int

    @classmethod
    def of(cls, context: int, batch: int) -> "Lengths":
        """Of requests that fill ``context`` tokens; shorter ones where these would take too long."""
        measured = max(2, batch)
        whole = max(2 * OUTPUT, min(context, ROWS // measured))
        return cls(measured, whole - OUTPUT, OUTPUT)


def kinds(model: str) -> list[str]:
    """Figures of the routing to draw, the model's own first, or the default where none are shipped."""
    own = model if model in shipped_figures() else DEFAULT
    # The default has gpt-oss-20b's popularity and overlap.
    return [own, *(name for name in OTHERS if name != own and not (own == DEFAULT and name == "gpt_oss_20b"))]


def modelled(profile: ModelProfile, dtype: str) -> Model:
    """What a drawn trace says of its model: the name of conf/model that it is priced as, or its sizes."""
    shape = profile.moe_layers, profile.experts, profile.top_k
    if profile.name in conf.names("model") and conf.model_sizes(profile.name) == shape:
        return Model(profile.name, *shape, priced_as=profile.name)
    shapes = {"hidden": profile.hidden, "expert_width": profile.expert_width, "vocab": profile.vocab}
    return Model(profile.name, *shape, None, list(profile.priced(dtype)), shapes, dtype)


def draw(root: Path, model: Model, kind: str, seed: int, lengths: Lengths, signals: Sequence[str]) -> Path:
    """The trace of ``model``'s shape below ``root``, drawn if it is not there. UserError where it cannot be.

    ``signals``: those that anybody reads; all of them take many times the place of the routing itself. Figures that
    know no recall of a gate ahead get the usual one.
    """
    recall = tuple(max(least_recall(model.experts, model.top_k), share) for share in RECALL)[: model.layers - 1]
    words: dict[str, Any] = {
        "like": kind,
        "requests": lengths.measured + 1,
        "prompt": (lengths.prompt, lengths.prompt),
        "output": (lengths.output, lengths.output),
        "prefill": True,
        "signals": tuple(name for name in MADE if name in signals and (recall or name != "gate_ahead")),
        "recall": recall if read_figures(kind).gate_recall is None and recall else None,
        "split": Fraction(1, lengths.measured + 1),
        "seed": seed,
    }
    key = json.dumps([asdict(model), words, __version__], default=str, sort_keys=True)
    name = re.sub(r"[^\w.-]", "_", model.name)
    folder = root / f"{name}-{kind}-{seed}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    with writable(f"out={root.parent}"):
        root.mkdir(parents=True, exist_ok=True)
        with held(root / f".turn-{folder.name}"):
            if not folder.is_dir():
                try:
                    synthesize(plan_of(Synthesize(model=model.name, out=folder, **words), model), folder)
                except UserError as error:
                    raise UserError(f"model={model.name}: no routing of its shape can be drawn: {error}") from None
    return folder
