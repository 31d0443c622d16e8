"""Import what SGLang's expert distribution recorder wrote per token: ``expert_distribution_recorder_TIME_RANK.pt``.

Source: srt/eplb/expert_distribution.py of sgl-project/sglang (--expert-distribution-recorder-mode per_token). The file
is a dict of ``records``, one per forward pass with ``input_ids``, ``positions``, ``extend_seq_lens``, ``forward_mode``
and ``topk_ids_of_layer`` [layers, tokens, 8], and ``last_physical_to_logical_map`` [layers, physical experts]. The
modes stat, stat_approx and per_pass write counts, which have no order, and are refused.

The ids are of physical experts, of which a logical one may have several: they are translated by the map, which holds
for the end of the recording (a rebalancing during it would be misread). Slots and layers in which nothing was written
are -1: a model of smaller top-k leaves slots free, a dense layer all of them. Requests are told apart by their
positions, see traces.importers.sglang_batches. One file has the tokens that one rank saw: with tensor parallelism each
rank writes all of them, and one file is enough; with data parallel attention each has its own.

The file is never unpickled in this process: torch opens it in a child with little memory (torch_child.py), which hands
it back as plain arrays, read as strictly as any file of a stranger. Before the child is started, the zip archive is
looked at: nothing in it may be compressed, its members may not claim more bytes than the file has, and the pickled
part is small.
"""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from traces.format.layout import MAX_EXPERTS, Array
from traces.format.manifest import Recorder
from traces.format.npy import read_header, row_chunks
from traces.importers import N_EXPERTS, Importer, Options
from traces.importers.build import File, Found, build
from traces.importers.files import check_request_size, open_source
from traces.importers.npz import Bounded, reading
from traces.importers.sglang_batches import Batches, Session
from traces.kit.errors import TraceError, UserError, refusal, shown
from traces.kit.whole import scratch
from traces.writing.workplace import refuse_place

MAX_PICKLE = 2**26
"""The most bytes of the pickled part, which holds everything but the tensors' values."""
CHILD = Path(__file__).with_name("torch_child.py")
SECONDS = 3600
"""How long the child may take at most; its own limit of CPU time goes by the size of the file."""


def import_trace(source: Path, target: Path, options: Options) -> Path:
    """Import the file ``source``; a copy of its ids lies beside ``target`` meanwhile.

    Memory is bounded by the longest request and some bytes per token.
    """
    refuse_place(target)
    with scratch(target) as folder:
        arrays = _load(source, folder)
        n_experts, sessions = _experts(source, arrays), _sessions(source, arrays)
        logical = f"the logical ones of {arrays['map'].shape[1]} physical experts"
        options.note(f"{n_experts} experts per layer: {logical}, by the file's last_physical_to_logical_map")
        options.note("requests: by their positions, since the recorder writes no request ids; one rank's tokens")
        said: dict[str, Any] = {"decoding": {"order_within_k": "as recorded, not by weight"}, "n_experts": n_experts}
        file = File(Recorder("sglang_pt", None, None), source.stem, **said, ids="topk_ids_of_layer", exact=True)
        return build(source, target, options, file, lambda: map(partial(_found, source, arrays), sessions))


def _experts(source: Path, arrays: Mapping[str, Array]) -> int:
    """Return E, once the map and the ids are known to fit each other."""
    ids, table = arrays["ids"], arrays["map"]
    if ids.ndim != 3 or table.ndim != 2 or 0 in table.shape or table.shape[0] != ids.shape[1]:
        raise refusal(source.name, "shape of last_physical_to_logical_map", table.shape, f"({ids.shape[1]}, experts)")
    low, high = int(table.min()), int(table.max())
    if low < 0 or high >= MAX_EXPERTS:
        raise refusal(source.name, "last_physical_to_logical_map", f"{low} to {high}", f"0 to {MAX_EXPERTS - 1}")
    for rows in row_chunks(len(ids), ids[0].nbytes):
        largest = int(ids[rows].max())
        if largest >= table.shape[1]:
            allowed = f"below {table.shape[1]}, the physical experts: shared experts must not be fused into them"
            raise refusal(source.name, "largest id of topk_ids_of_layer", largest, allowed)
    return high + 1


def _sessions(source: Path, arrays: Mapping[str, Array]) -> list[Session]:
    batches, row, at = Batches(source.name), 0, 0
    positions, lengths = arrays["tokens"][1], arrays["lengths"].tolist()
    if len(ranks := set(arrays["passes"][:, 2].tolist())) > 1:
        raise refusal(source.name, "rank of the records", sorted(ranks), "one: each rank writes a file of its own")
    for number, (rows, mode, _, _, parts) in enumerate(arrays["passes"].tolist()):
        own = None if parts < 0 else lengths[at : at + parts]
        batches.add(f"records[{number}]", mode, positions[row : row + rows].tolist(), row, own)
        row, at = row + rows, at + max(parts, 0)
    return batches.sessions


def _found(source: Path, arrays: Mapping[str, Array], session: Session) -> Found:
    rows, table = np.frombuffer(session.rows, np.int64), arrays["map"]
    n_layers, slots = arrays["ids"].shape[1:]
    where = f"{source.name}: request from token row {rows[0]} on"
    check_request_size(where, len(rows), n_layers, slots)
    ids = arrays["ids"][rows]
    logical = np.where(ids < 0, -1, table[np.arange(n_layers)[:, None], ids])
    signals, chunks = {"token_ids": arrays["tokens"][0][rows]}, tuple(session.chunks)
    return Found(where, logical, prefill=sum(chunks), start=session.start, chunks=chunks, signals=signals)


def _load(source: Path, folder: Path) -> dict[str, Array]:
    """Return the arrays that the child makes of ``source``, by name, mapped from files in the empty ``folder``.

    Raises UserError where torch is absent, TraceError for whatever is wrong with the file.
    """
    if os.name != "posix":
        raise UserError(f"{source.name}: .pt files are read under limits of memory; allowed: Linux or macOS")
    if not find_spec("torch"):
        raise UserError(f"{source.name}: reading .pt files needs torch: pip install 'moe-offload-workbench[hf]'")
    _check_archive(source)
    answer = spawn(source, folder)
    word, _, rest = answer.partition(" ")
    if word == "refused":
        field, value, allowed = json.loads(rest)
        raise refusal(source.name, field, value, allowed)
    if word != "done":
        raise refusal(source.name, "content", answer, "a file that torch reads within its limits of memory and time")
    return {path.stem: _mapped(path, source.name) for path in sorted(folder.glob("*.npy"))}


def spawn(source: Path, folder: Path) -> str:
    """Run the child and return its last line, or how it ended without one."""
    command = [sys.executable, "-P", str(CHILD), str(source.resolve()), str(folder.resolve())]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    try:
        done = subprocess.run(  # noqa: S603
            command, env=environment, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"torch took over {SECONDS} s"
    lines = done.stdout.splitlines()
    if done.returncode < 0:
        return f"torch was ended by signal {-done.returncode}"
    return lines[-1] if lines else f"torch failed: {shown((done.stderr.splitlines() or ['?'])[-1])}"


def _check_archive(source: Path) -> None:
    """Refuse what torch.save does not write: not a zip archive, compressed, or larger inside than outside."""
    with open_source(source, ".pt") as stream:
        start, size = stream.read(4), os.fstat(stream.fileno()).st_size
        if start != b"PK\x03\x04":
            raise refusal(source.name, "first bytes", start, "those of a file that torch.save wrote (a zip archive)")
        with reading(source, ".pt"), zipfile.ZipFile(Bounded(stream)) as archive:
            members = archive.infolist()
        pickled = [member for member in members if member.filename.endswith("data.pkl")]
        if len(pickled) != 1 or pickled[0].file_size > MAX_PICKLE:
            found = [f"{member.filename}: {member.file_size} bytes" for member in pickled]
            raise refusal(source.name, "pickled part", found, f"one data.pkl of at most {MAX_PICKLE} bytes")
        for member in members:
            if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
                allowed = "none, no password: torch.save compresses nothing"
                raise refusal(source.name, f"compression of {member.filename}", member.compress_type, allowed)
        if (claimed := sum(member.file_size for member in members)) > size:
            raise refusal(source.name, "size of all members", f"{claimed} bytes", f"at most {size}, the file's own")


def _mapped(path: Path, source: str) -> Array:
    with path.open("rb") as stream:
        header = read_header(stream, f"{source}: {path.name}")
        if 0 in header.shape:
            return np.zeros(header.shape, np.int64)
        if header.descr not in ("<i4", "<i8"):
            raise TraceError(f"{source}: {path.name}: dtype is {header.descr}; allowed: integers")
        return np.memmap(stream, header.descr, "r", header.offset, header.shape)


IMPORTER = Importer(
    "sglang_pt",
    import_trace,
    """\
expert_distribution_recorder_*.pt of SGLang, recorded with
--expert-distribution-recorder-mode per_token (the other modes write counts).
torch reads it in a process of its own, never by unpickling, and is needed.
Physical ids become logical ones, requests are told apart by their positions.
Weights are not recorded: the ids of a token stay in the order given.
""",
    {"n_experts": N_EXPERTS},
)
