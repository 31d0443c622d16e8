"""Import the ``routed_experts`` arrays [tokens, layers, k] that vLLM and SGLang return per request.

Both cover the prompt and the generated tokens but the last, which is never fed to the model: prompt + completion - 1
rows, or one more, where a recorder has one for the last, too. The source is one of two:

JSON Lines of responses. ``routed_experts`` is a nested list (vLLM to 0.21), base64 of a .npy file (vLLM since) or
base64 of bare little-endian int32 (SGLang), for which ``n_layers=`` and ``top_k=`` are needed, or an object of
``data`` (base64), ``shape`` and ``dtype``. It lies in the object itself, in its ``meta_info`` (SGLang), in its only
choice (``choices``), or in the ``sgl_ext`` of that; so do ``prompt_tokens``, ``completion_tokens`` and
``cached_tokens`` (also under ``usage``). Without ``completion_tokens`` nothing tells whether rows of a cached prefix
were left out, unless ``cached_tokens`` is 0. vLLM 0.21 returned the prompt's rows apart, as ``prompt_routed_experts``.
``routed_experts_start_len`` (SGLang) or ``routed_experts_prompt_start`` (vLLM), as sent with the request, says that
earlier rows were left out. Anything else is ignored.

A ``.npz`` archive, whose arrays of any other name than those of counts are requests, in their order.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

from traces.format.layout import MAX_EXPERTS
from traces.format.manifest import Recorder
from traces.importers import N_EXPERTS, Importer, Options
from traces.importers.build import File, build
from traces.importers.counts import COUNTS, WANTED, are_counts
from traces.importers.files import check_request_size
from traces.importers.found import Found
from traces.importers.npz import Archive, open_archive
from traces.importers.responses import Counts, placed, read_responses
from traces.kit.errors import one_of, refusal
from traces.kit.strict import open_source
from traces.kit.words import Between

_COUNTS = ("prompt_tokens", "completion_tokens", "cached_tokens")
"""Arrays of an archive that hold one number per request."""


def import_trace(source: Path, target: Path, options: Options) -> Path:
    """Import the file ``source``; a prompt is one pass."""
    options = replace(options, without_layers=options.without_layers | set(range(options.own.get("dense_layers", 0))))
    known, decoding = Recorder("routed_experts", None, None), {"order_within_k": "as returned, not by weight"}
    file = File(known, source.stem, decoding=decoding, ids="routed_experts", padded=True)
    if _is_archive(source):
        with open_archive(source) as archive:
            if not {"completion_tokens", "cached_tokens"} & set(archive.names()):
                options.note(
                    "every array is taken to begin with the first token of its prompt; "
                    "completion_tokens [R] or cached_tokens [R] in the archive states it"
                )
    return build(source, target, options, file, lambda: _requests(source, options))


def _is_archive(source: Path) -> bool:
    with open_source(source, "routed_experts") as stream:
        return stream.read(2) == b"PK"


def _requests(source: Path, options: Options) -> Iterator[Found]:
    """Yield the requests, all of one shape."""
    shape: tuple[int, ...] | None = None
    for request in _archived(source) if _is_archive(source) else read_responses(source, options.own):
        found = request.expert_ids.shape[1:]
        shape = shape or found
        if found != shape:
            raise refusal(request.where, "layers and k", found, f"{shape}, as in the first request")
        for name, size in zip(("n_layers", "top_k"), shape, strict=True):
            if (stated := options.own.get(name, size)) != size:
                raise refusal(request.where, name, stated, f"{size}, which this array has")
        if max(shape) > MAX_EXPERTS:
            raise refusal(request.where, "layers and k", shape, f"at most {MAX_EXPERTS} each")
        yield request


def _archived(source: Path) -> Iterator[Found]:
    with open_archive(source) as archive:
        names = [name for name in archive.names() if name not in _COUNTS]
        if are_counts(names):
            raise refusal(source.name, "arrays", COUNTS, WANTED)
        if "prompt_tokens" not in archive.names() or not names:
            raise refusal(source.name, "arrays", one_of(archive.names()), "prompt_tokens, and one array per request")
        given = {name: _numbers(archive, name, len(names)) for name in _COUNTS if name in archive.names()}
        if len(given) == 1:
            given["cached_tokens"] = [0] * len(names)
        for number, name in enumerate(names):
            where, header = f"{source.name}/{name}.npy", archive.header(name, "ui")
            if len(header.shape) != 3 or 0 in header.shape:
                raise refusal(where, "shape", header.shape, "(tokens, layers, k), none of them 0")
            check_request_size(where, *header.shape)
            prompt, completion, cached = (given[key][number] if key in given else None for key in _COUNTS)
            assert prompt is not None
            if cached is not None and cached > prompt:
                raise refusal(where, "cached_tokens", cached, f"0 to {prompt}, the prompt_tokens")
            ids = archive.read(name, header)
            yield placed(where, partial(refusal, where), ids, Counts(prompt, completion, cached))


def _numbers(archive: Archive, name: str, requests: int) -> list[int]:
    where, header = f"{archive.source.name}/{name}.npy", archive.header(name, "ui")
    if header.shape != (requests,):
        raise refusal(where, "shape", header.shape, f"({requests},)")
    found: list[int] = archive.read(name, header).tolist()
    for value in found:
        if not 0 <= value < 2**31:
            raise refusal(where, "value", value, "0 to 2147483647")
    return found


IMPORTER = Importer(
    "routed_experts",
    import_trace,
    """\
what vLLM (enable_return_routed_experts) and SGLang (return_routed_experts)
answer: JSON Lines of responses with prompt_tokens, completion_tokens and
routed_experts [tokens, layers, k]: a nested list, base64 of .npy or of int32,
or data with its shape and dtype. Or an .npz with one array per request,
prompt_tokens [R] and, optional, completion_tokens [R], cached_tokens [R].
The prompt's rows are one prefill pass, after the tokens that the server had
cached (cached_tokens, or leading rows of -1 or 0). A later -1 is an absent
entry. Weights are not returned: ids stay in the order given.
""",
    {
        "n_experts": N_EXPERTS,
        "n_layers": Annotated[int, Between(1, MAX_EXPERTS), "and top_k: the shape of base64 of int32, which has none"],
        "top_k": Annotated[int, Between(1, MAX_EXPERTS), "experts per token"],
        "dense_layers": Annotated[
            int,
            Between(0, MAX_EXPERTS),
            "N is short for without_layers=0-(N-1): SGLang writes layers without experts as zeros",
        ],
    },
)
