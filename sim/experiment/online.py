"""``workload=online`` of a configuration: its keys, each with its range, and what goes with what."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

from sim.results.serving.slo import parse_slo
from sim.workload.online import registry
from sim.workload.online.arrivals import ASSIGN, DRAWN, KINDS, LENGTHS, Plan
from sim.workload.online.schedule import Limits
from traces.importers.arrivals import LOGS
from traces.kit.errors import UserError, one_of
from traces.kit.readers import nullable, number, record, refusal, text, truth, whole
from traces.kit.units import format_bytes, parse_bytes

NAME = "online"
_SHARE = re.compile(r"([0-9]{1,2}(?:\.[0-9]{1,9})?)%", re.ASCII)
MOST = 10**7
"""Arrivals of a run."""


def _discipline(value: Any, where: str) -> str:
    return str(text(*registry.names())(value, where))


def _burstiness(value: Any, where: str) -> Fraction:
    exact: Fraction = number()(value, where)
    if not Fraction("0.01") <= exact <= 10_000:
        raise refusal(value, where, "0.01 to 10000")
    return exact


@dataclass(frozen=True, slots=True)
class Online:
    """The keys of ``conf/workload/online.yaml``, which says what each is."""

    name: Annotated[str, text(NAME)]
    arrivals: Annotated[str, text(*KINDS)]
    path: Annotated[str | None, nullable(text())]
    rate: Annotated[Fraction | None, nullable(number())]
    burstiness: Annotated[Fraction, _burstiness]
    scale: Annotated[Fraction, number()]
    count: Annotated[int | None, nullable(whole(1, MOST))]
    assign: Annotated[str, text(*ASSIGN)]
    lengths: Annotated[str, text(*LENGTHS)]
    priority_classes: Annotated[int, whole(1, 2**16)]
    discipline: Annotated[str, _discipline]
    max_num_seqs: Annotated[int, whole(1, 2**20)]
    max_num_batched_tokens: Annotated[int, whole(1, 2**30)]
    enable_chunked_prefill: Annotated[bool, truth]
    long_prefill_token_threshold: Annotated[int, whole(0, 2**30)]
    block_size: Annotated[int, whole(1, 2**20)]
    slo: Annotated[Mapping[str, int] | None, nullable(parse_slo)]
    prefill_order: Annotated[str, text("chunk_major", "layer_major")] = "chunk_major"

    def plan(self, seed: int) -> Plan:
        """How its arrivals are made."""
        return Plan(
            self.arrivals,
            None if self.path is None else Path(self.path),
            self.rate,
            self.burstiness,
            self.scale,
            self.count,
            self.assign,
            self.lengths,
            self.priority_classes,
            seed,
        )

    def limits(self, kv: str | int | None, bytes_per_token: int) -> Limits:
        """The scheduler's, with a KV cache of so many bytes, of which a token takes ``bytes_per_token`` in all layers.

        None: as many blocks as are asked for. UserError for a cache of less than a block.
        """
        blocks = None
        if kv is not None:
            if not bytes_per_token:
                raise UserError(f"kv={kv}: how much a token takes in this model's KV cache is unknown; allowed: null")
            size = self.block_size * bytes_per_token
            blocks = parse_bytes(kv, "kv") // size
            if not blocks:
                raise UserError(
                    f"kv={kv}: less than a block of {self.block_size} tokens; allowed: at least {size} bytes"
                    f" ({format_bytes(size)})"
                )
        return Limits(
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            enable_chunked_prefill=self.enable_chunked_prefill,
            long_prefill_token_threshold=self.long_prefill_token_threshold,
            block_size=self.block_size,
            kv_blocks=blocks,
            layer_major=self.prefill_order == "layer_major",
        )


def read_online(value: Any, where: str = "workload") -> Online:
    """A checked ``workload=online``. UserError names the first key that is wrong, or has no meaning beside another."""
    found: Online = record(Online)(value, where)
    for key, allowed in _clashes(found):
        raise UserError(f"{where}.{key}={_plain(getattr(found, key))}: allowed: {allowed}")
    return found


def kv(value: Any, where: str) -> str | int | None:
    """Reader of ``kv=``."""
    if value is not None:
        parse_bytes(value, where)
    return value  # type: ignore[no-any-return]


def check_kv(given: str | int | None, workload: Mapping[str, Any]) -> None:
    """UserError for a ``kv=`` that would mean nothing."""
    if given is not None and workload["name"] != NAME:
        raise UserError(f"kv={given}: of workload=online; allowed here: null")


def share(value: Any, where: str) -> str:
    """Reader of ``kv_share=``, a part of a whole."""
    share_of(value, where)
    return str(value)


def share_of(value: Any, where: str = "kv_share") -> Fraction:
    """``20%`` as a fifth. UserError for what is not above 0% and below 100%."""
    match = _SHARE.fullmatch(value) if isinstance(value, str) else None
    if match is None or not 0 < Fraction(match[1]) < 100:
        raise refusal(value, where, "a share above 0% and below 100%, such as 20%")
    return Fraction(match[1]) / 100


def check_share(given: str | None, kv: str | int | None, budget: str | int, workload: Mapping[str, Any]) -> None:
    """UserError for a ``kv_share=`` that would mean nothing, or beside what it says as well."""
    if given is None:
        return
    if workload["name"] != NAME:
        raise UserError(f"kv_share={given}: of workload=online; allowed here: null")
    if kv is not None:
        raise UserError(f"kv={kv}: kv_share={given} says how large the KV cache is; allowed: one of them")
    if budget != "auto":
        raise UserError(f"budget={budget}: kv_share={given} leaves the rest of the room for experts; allowed: auto")


def _clashes(it: Online) -> Iterator[tuple[str, str]]:
    """Keys whose values do not go with others', and what would."""
    kind, log, drawn = it.arrivals, it.arrivals in LOGS, it.arrivals in DRAWN
    if log and it.path is None:
        yield "path", f"the file of a log, for arrivals={kind}"
    if not log and it.path is not None:
        yield "path", f"null, as arrivals={kind} reads no file"
    if drawn and it.rate is None:
        yield "rate", f"requests per second, for arrivals={kind}"
    if it.scale != 1 and (drawn or it.rate is not None):
        yield "scale", f"1, as {f'arrivals={kind} has a rate' if drawn else f'rate={_plain(it.rate)} is given'}"
    if kind != "gamma" and it.burstiness != 1:
        yield "burstiness", "1, or arrivals=gamma"
    if not log and it.assign != "in_order":
        yield "assign", f"in_order, as only {one_of(LOGS)} have lengths"
    if not log and it.lengths != "as_recorded":
        yield "lengths", f"as_recorded, as only {one_of(LOGS)} have lengths"
    if it.priority_classes > 1 and it.discipline != "priority":
        yield "priority_classes", "1, or discipline=priority"
    if it.prefill_order == "layer_major" and (other := registry.not_by_layer(it.discipline)):
        yield "prefill_order", other
    if it.max_num_batched_tokens < it.max_num_seqs:
        yield "max_num_batched_tokens", f"at least max_num_seqs={it.max_num_seqs}, a token for each that runs"


def _plain(value: object) -> str:
    if value is None:
        return "null"
    return f"{float(value):g}" if isinstance(value, Fraction) else str(value)
