"""Collective communication that survives broken links: a thin binding of the C interface with ctypes.

    group = Group({"RANK": "0", ...})      # or Group() in a job of `supernode run`
    group.start("all-reduce", "f32", count, None, address, reduction="sum").wait()

Buffers are addresses (integers); who passes them keeps them alive until `wait` has returned. The library is found through the variable
SUPERNODE_COLLECTIVES_LIBRARY, beside this file, or by the system's search path.
"""

import ctypes
import os
import pathlib

KINDS = {
    "all-reduce": 1,
    "reduce-scatter": 2,
    "all-gather": 3,
    "broadcast": 4,
    "reduce": 5,
    "all-to-all": 6,
    "barrier": 8,
    "send": 16,
    "receive": 17,
}
DATA_TYPES = {"f32": 0, "f64": 1, "i32": 2, "i64": 3, "u8": 4, "f16": 5, "bf16": 6}
REDUCTIONS = {"sum": 0, "product": 1, "min": 2, "max": 3, "avg": 4}


class CollectiveError(RuntimeError):
    """An operator or a group failed; the text names the reason and the rank."""


class _Operator(ctypes.Structure):
    _fields_ = [
        ("kind", ctypes.c_uint32),
        ("data_type", ctypes.c_uint32),
        ("reduction", ctypes.c_uint32),
        ("peer", ctypes.c_uint32),
        ("count", ctypes.c_uint64),
        ("send_counts", ctypes.POINTER(ctypes.c_uint64)),
        ("receive_counts", ctypes.POINTER(ctypes.c_uint64)),
    ]


def _load():
    name = "libsupernode_collectives.so"
    beside = pathlib.Path(__file__).with_name(name)
    path = os.environ.get("SUPERNODE_COLLECTIVES_LIBRARY") or (str(beside) if beside.exists() else name)
    library = ctypes.CDLL(path)
    pointer, status = ctypes.c_void_p, ctypes.c_int32
    for function, result, arguments in [
        ("last_error", ctypes.c_char_p, []),
        ("join", status, [ctypes.c_char_p, ctypes.c_uint64, ctypes.POINTER(pointer)]),
        ("leave", None, [pointer]),
        ("start", status, [pointer, ctypes.POINTER(_Operator), pointer, pointer, ctypes.POINTER(pointer)]),
        ("test", status, [pointer]),
        ("wait", status, [pointer]),
        ("resumed", ctypes.c_uint64, [pointer]),
    ]:
        symbol = getattr(library, "supernode_collective_" + function)
        symbol.restype, symbol.argtypes = result, arguments
    return library


_library = _load()


def _check(status):
    if status != 0:
        raise CollectiveError(_library.supernode_collective_last_error().decode())


class Request:
    """An operator that was started. Keeps `alive` until it has ended."""

    def __init__(self, pointer, alive):
        self._pointer, self._alive = pointer, alive

    def is_done(self):
        return self._pointer is None or _library.supernode_collective_test(self._pointer) == 1

    def wait(self):
        pointer, self._pointer = self._pointer, None
        if pointer is not None:
            try:
                _check(_library.supernode_collective_wait(pointer))
            finally:
                self._alive = None

    def __del__(self):
        # The memory must not go before the operator has ended.
        if self._pointer is not None:
            _library.supernode_collective_wait(self._pointer)


class Group:
    """A rank of a group. `settings` go before the variables of the process."""

    def __init__(self, settings=None, wait_seconds=60.0):
        lines = "\n".join(f"{name}={value}" for name, value in (settings or {}).items())
        self._pointer = ctypes.c_void_p()
        _check(_library.supernode_collective_join(lines.encode(), int(wait_seconds * 1000), ctypes.byref(self._pointer)))

    def start(self, kind, data_type, count, source, target, *, reduction="sum", peer=0, counts=None, alive=None):
        """Starts an operator. `source` None: in place. `counts`: for an all-to-all, to and from each rank."""
        operator = _Operator(KINDS[kind], DATA_TYPES[data_type], REDUCTIONS[reduction], peer, count)
        if counts is not None:
            arrays = [(ctypes.c_uint64 * len(list_))(*list_) for list_ in counts]
            operator.send_counts, operator.receive_counts = arrays
        request = ctypes.c_void_p()
        _check(_library.supernode_collective_start(self._pointer, ctypes.byref(operator), source, target, ctypes.byref(request)))
        return Request(request, alive)

    def resumed(self):
        """How often streams of this rank went on over a new connection."""
        return _library.supernode_collective_resumed(self._pointer)

    def leave(self):
        pointer, self._pointer = self._pointer, None
        if pointer:
            _library.supernode_collective_leave(pointer)

    def __del__(self):
        if getattr(self, "_pointer", None):
            self.leave()
