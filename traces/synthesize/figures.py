"""The figures of a trace's routing, as ``traces describe`` measures them and ``traces synthesize like=`` takes them."""

from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Self

import yaml

from traces.format.layout import MAX_EXPERTS
from traces.kit.errors import UserError, allowing, one_of
from traces.kit.readers import Count, Reader, Text, each, nullable, record, refusal, text, truth, whole

SCHEMA = 1
SHIPPED = Path(__file__).with_name("figures")
DEFAULT = "default"
LAGS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Tokens between two whose experts are compared."""
REQUESTS = 256
"""Requests, at most, between two whose experts are compared."""
DEGREES = 33
"""Places between the rarest expert and the most popular one at which a layer's popularity is kept."""
MOST_BYTES = 2**22


def _between(low: float, high: float) -> Reader:
    def read(value: Any, where: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise refusal(value, where, f"a number, {low:g} to {high:g}")
        return float(value)

    return read


_CHANCE = _between(0, 1)


@dataclass(frozen=True)
class Figures:
    """Figures of a model's routing, of L layers of E experts, top-K.

    ``popularity`` [L][n]: the chance that a token chooses an expert, from the rarest to the most popular one, at n
    evenly spaced ranks (all E where n = E). ``overlap`` [L][lags]: share of a token's experts that the token ``lag``
    before it in its request also chose; null where there are no such tokens. ``kinship`` [L]: the same of two tokens of
    different requests from one source; null where the trace does not tell. ``between``: the same of two requests of
    different sources (of any two where there is one source), averaged over the layers, by how far apart they are: 1, 2,
    3 to 4, 5 to 8 and so on; null where the trace does not tell; without it, popularity is what it is in the long run,
    and not that of ``requests``. ``together``: the correlation, over the
    tokens, of two layers' overlaps with the token before. ``top_weight``: the share of the first expert in the weights
    of the K. ``gate_recall``: by distance. ``prompt_tokens``, ``output_tokens``: quantiles over the requests, evenly
    spaced. ``prompt_rows``: whether prompts have routing. ``assumed``: keys whose figures are another model's.
    """

    schema: Annotated[int, whole(SCHEMA, SCHEMA)]
    name: Text
    source: Text
    assumed: Annotated[tuple[str, ...], each(text())]
    layers: Annotated[int, whole(1, MAX_EXPERTS)]
    experts: Annotated[int, whole(2, MAX_EXPERTS)]
    top_k: Annotated[int, whole(1, MAX_EXPERTS)]
    requests: Count
    topics: Annotated[int, whole(1, 2**16)]
    prompt_rows: Annotated[bool, truth]
    prompt_tokens: Annotated[tuple[int, ...], each(whole(1, 2**24))]
    output_tokens: Annotated[tuple[int, ...], each(whole(1, 2**24))]
    lags: Annotated[tuple[int, ...], each(whole(1, 2**20))]
    overlap: Annotated[tuple[tuple[float | None, ...], ...], each(each(nullable(_CHANCE)))]
    kinship: Annotated[tuple[float | None, ...], each(nullable(_CHANCE))]
    popularity: Annotated[tuple[tuple[float, ...], ...], each(each(_CHANCE))]
    together: Annotated[float | None, nullable(_between(-1, 1))]
    top_weight: Annotated[float | None, nullable(_CHANCE)]
    gate_recall: Annotated[tuple[float, ...] | None, nullable(each(_CHANCE))]
    between: Annotated[tuple[float | None, ...] | None, nullable(each(nullable(_CHANCE)))] = None

    @classmethod
    def from_dict(cls, mapping: Any, where: str = "") -> Self:
        """Read the keys above; UserError names the offending one."""
        figures = record(cls)(mapping, where)
        L, E, K = figures.layers, figures.experts, figures.top_k
        known = [field.name for field in fields(cls)][4:]
        for key in figures.assumed:
            if key not in known:
                raise refusal(key, f"{where}assumed", one_of(known))
        for key, size in (("overlap", L), ("kinship", L), ("popularity", L)):
            if len(getattr(figures, key)) != size:
                raise refusal(len(getattr(figures, key)), f"{where}{key}, number of layers", f"{L}, as layers says")
        if K > E:
            raise refusal(K, f"{where}top_k", f"at most experts={E}")
        if list(figures.lags) != sorted({*figures.lags}) or figures.lags[:1] != (1,):
            raise refusal([*figures.lags], f"{where}lags", "ascending, the first is 1")
        for layer, row in enumerate(figures.overlap):
            if len(row) != len(figures.lags):
                raise refusal([*row], f"{where}overlap[{layer}]", f"{len(figures.lags)} shares, one per lag")
        for layer, row in enumerate(figures.popularity):
            if not 1 < len(row) <= E or list(row) != sorted(row) or not row[-1]:
                raise refusal([*row], f"{where}popularity[{layer}]", f"2 to {E} chances, ascending, not all 0")
        if len(figures.between or ()) > (most := REQUESTS.bit_length()):
            raise refusal(len(figures.between or ()), f"{where}between, number of shares", f"at most {most}")
        for key in ("prompt_tokens", "output_tokens"):
            if not (row := getattr(figures, key)) or list(row) != sorted(row):
                raise refusal([*row], f"{where}{key}", "at least one number, ascending")
        return figures

    def to_yaml(self) -> str:
        """The text that :func:`read_figures` reads back."""
        return yaml.safe_dump(
            {field.name: _plain(getattr(self, field.name)) for field in fields(self)},
            sort_keys=False,
            default_flow_style=None,
            width=118,
            allow_unicode=True,
        )


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def shipped_figures() -> list[str]:
    """The names of the figures that are shipped."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def read_figures(given: str) -> Figures:
    """Figures by the name of shipped ones, or of a file. UserError for what is neither, or not well formed."""
    names = shipped_figures()
    path = SHIPPED / f"{given}.yaml" if given in names else Path(given)
    if not given or not path.is_file():
        raise UserError(f"like={given}: no such figures; {allowing(given, names)}, or a file of traces describe")
    return _shipped(path, given) if given in names else _read(path, given)


def _read(path: Path, given: str) -> Figures:
    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"like={given}: {path.stat().st_size} bytes; allowed: at most {MOST_BYTES}")
    try:
        return Figures.from_dict(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"like={given}: not YAML ({' '.join(str(error).split())[:120]})") from None
    except UserError as error:
        raise UserError(f"like={given}: {error}") from None


_shipped = cache(_read)
"""What is shipped does not change, and a plan asks for it many times."""
