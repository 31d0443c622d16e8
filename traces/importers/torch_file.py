"""Files of torch.save, opened by torch in a child process with little memory, and handed back as plain arrays.

Nothing is unpickled in this process. Before the child is started, the zip archive is looked at: nothing in it may be
compressed, its members may not claim more bytes than the file has, and the pickled part is small. The child is
torch_child.py; what it wrote is read as strictly as any file of a stranger.
"""

import json
import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from traces.format.layout import Array
from traces.format.npy import read_header
from traces.importers.archive import Bounded, reading
from traces.importers.files import open_source
from traces.kit.errors import TraceError, UserError, refusal, shown

MAX_PICKLE = 2**26
"""The most bytes of the pickled part, which holds everything but the tensors' values."""
CHILD = Path(__file__).with_name("torch_child.py")
SECONDS = 3600
"""How long the child may take at most; its own limit of CPU time goes by the size of the file."""


def load(source: Path, folder: Path) -> dict[str, Array]:
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
