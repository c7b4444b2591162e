"""The backend "supernode" of `torch.distributed`, for tensors on the CPU.

    import supernode_collectives.torch
    torch.distributed.init_process_group("supernode")

Ranks exchange what they need through the store that torch has made; in a job of `supernode run` nothing else has to be set. Operators run
in the order in which they are called; one thread waits for them and completes their futures.

It refuses tensors that are not on the CPU, and types and reductions that the library does not have.
"""

import os
import queue
import secrets
import socket
import threading
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Work as _TorchWork

from . import CollectiveError, Group

_TYPES = {
    torch.float32: "f32",
    torch.float64: "f64",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.uint8: "u8",
    torch.bool: "u8",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
}
_REDUCTIONS = {
    dist.ReduceOp.SUM: "sum",
    dist.ReduceOp.PRODUCT: "product",
    dist.ReduceOp.MIN: "min",
    dist.ReduceOp.MAX: "max",
    dist.ReduceOp.AVG: "avg",
}


def _reduction(operation):
    # Newer versions of torch wrap the value.
    for known, name in _REDUCTIONS.items():
        if operation == known:
            return name
    raise CollectiveError(f"the backend supernode cannot reduce with {operation}")


class _Work(_TorchWork):
    """Operators that were started together."""

    def __init__(self, value):
        super().__init__()
        self._future = torch.futures.Future()
        self._value = value
        self._done = threading.Event()
        self._error = None

    def finish(self, error):
        self._error = error
        self._done.set()
        if error is None:
            self._future.set_result(self._value)
        else:
            self._future.set_exception(error)

    def wait(self, timeout=None):
        self._done.wait()
        if self._error is not None:
            raise self._error
        return True

    def is_completed(self):
        return self._done.is_set()

    def is_success(self):
        return self._done.is_set() and self._error is None

    def exception(self):
        return self._error

    def get_future(self):
        return self._future


def _dense(tensor):
    """A tensor whose memory is its elements in order; a copy if it is not one."""
    if tensor.device.type != "cpu":
        raise CollectiveError(f"the backend supernode works on CPU tensors, not on {tensor.device}")
    if tensor.dtype not in _TYPES:
        raise CollectiveError(f"the backend supernode does not know {tensor.dtype}")
    return tensor.detach().contiguous()


class ProcessGroupSupernode(dist.ProcessGroup):
    """A group over the library."""

    def __init__(self, store, rank, size, timeout):
        super().__init__(rank, size)
        self._rank, self._size = rank, size
        self._group = Group(_meet(store, rank, size), timeout.total_seconds())
        self._pending = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._complete, name="collectives-futures", daemon=True)
        self._thread.start()

    def _complete(self):
        while (item := self._pending.get()) is not None:
            work, requests, after = item
            error = None
            for request in requests:
                try:
                    request.wait()
                except CollectiveError as failure:
                    error = error or failure
            if error is None:
                after()
            work.finish(error)

    def _work(self, value, requests, after=lambda: None):
        work = _Work(value)
        self._pending.put((work, requests, after))
        return work

    def _start(self, kind, source, target, count, **options):
        one = target if target is not None else source
        return self._group.start(
            kind,
            _TYPES[one.dtype],
            count,
            None if source is None else source.data_ptr(),
            None if target is None else target.data_ptr(),
            alive=(source, target),
            **options,
        )

    def _in_place(self, kind, tensors, **options):
        dense = [_dense(tensor) for tensor in tensors]
        requests = [self._start(kind, None, one, one.numel(), **options) for one in dense]

        def after():
            for tensor, one in zip(tensors, dense):
                if one.data_ptr() != tensor.data_ptr():
                    tensor.copy_(one)

        return self._work(list(tensors), requests, after)

    def allreduce(self, tensors, opts=None):
        operation = opts.reduceOp if opts is not None else dist.ReduceOp.SUM
        return self._in_place("all-reduce", tensors, reduction=_reduction(operation))

    def allreduce_coalesced(self, tensors, opts=None):
        return self.allreduce(tensors, opts)

    def broadcast(self, tensors, opts):
        return self._in_place("broadcast", tensors, peer=opts.rootRank)

    def reduce(self, tensors, opts):
        (tensor,) = tensors
        source = _dense(tensor)
        is_root = opts.rootRank == self._rank
        target = torch.empty_like(source) if is_root else None
        request = self._start(
            "reduce", source, target, source.numel(), reduction=_reduction(opts.reduceOp), peer=opts.rootRank
        )
        return self._work([tensor], [request], lambda: tensor.copy_(target) if is_root else None)

    def allgather(self, outputs, inputs, opts=None):
        (lists, (tensor,)) = (outputs[0], inputs)
        source = _dense(tensor)
        flat = torch.empty(self._size * source.numel(), dtype=source.dtype)
        request = self._start("all-gather", source, flat, source.numel())

        def after():
            for output, part in zip(lists, flat.chunk(self._size) if flat.numel() else [flat] * self._size):
                output.copy_(part.view_as(output))

        return self._work(outputs, [request], after)

    def _allgather_base(self, output, tensor, opts=None):
        return self.allgather([list(output.view(self._size, -1))], [tensor.reshape(-1)], opts)

    def reduce_scatter(self, outputs, inputs, opts=None):
        (output,), (parts,) = outputs, inputs
        operation = opts.reduceOp if opts is not None else dist.ReduceOp.SUM
        source = torch.cat([_dense(part).reshape(-1) for part in parts])
        target = torch.empty(output.numel(), dtype=output.dtype)
        request = self._start("reduce-scatter", source, target, output.numel(), reduction=_reduction(operation))
        return self._work(outputs, [request], lambda: output.copy_(target.view_as(output)))

    def alltoall_base(self, output, tensor, output_splits, input_splits, opts=None):
        row = output.numel() // max(output.size(0), 1) if output.dim() else 1
        equal = [tensor.size(0) // self._size] * self._size
        send = [rows * row for rows in (input_splits or equal)]
        receive = [rows * row for rows in (output_splits or equal)]
        source, target = _dense(tensor), torch.empty(output.numel(), dtype=output.dtype)
        request = self._start("all-to-all", source, target, 0, counts=(send, receive))
        return self._work([output], [request], lambda: output.copy_(target.view_as(output)))

    def barrier(self, opts=None):
        token = torch.zeros(0, dtype=torch.uint8)
        return self._work([], [self._start("barrier", None, token, 0)])

    def send(self, tensors, peer, tag=0):
        (tensor,) = tensors
        source = _dense(tensor)
        return self._work([tensor], [self._start("send", source, None, source.numel(), peer=peer)])

    def recv(self, tensors, peer, tag=0):
        (tensor,) = tensors
        target = torch.empty_like(_dense(tensor))
        request = self._start("receive", None, target, target.numel(), peer=peer)
        return self._work([tensor], [request], lambda: tensor.copy_(target))

    def _get_backend_name(self):
        return "supernode"

    getBackendName = name = _get_backend_name

    def resumed(self):
        """How often streams of this rank went on over a new connection."""
        return self._group.resumed()

    def __del__(self):
        if hasattr(self, "_thread"):
            self._pending.put(None)
            self._thread.join()
            self._group.leave()


def _meet(store, rank, size):
    """Settings of the group: rank 0 decides and tells through the store."""
    settings = {"RANK": rank, "WORLD_SIZE": size}
    if rank == 0:
        host = os.environ.get("SUPERNODE_COLLECTIVE_ADDRESSES", "").split(",")[0] or _own_address()
        port = _unused_port(host)
        store.set("supernode/root", f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        store.set("supernode/key", secrets.token_hex(32))
    settings["SUPERNODE_COLLECTIVE_ROOT"] = store.get("supernode/root").decode()
    settings["SUPERNODE_COLLECTIVE_KEY"] = store.get("supernode/key").decode()
    settings["SUPERNODE_COLLECTIVE_GROUP"] = "torch"
    return settings


def _unused_port(host):
    """A port below those that the kernel gives out by itself, so that nobody gets it by accident before rank 0 listens on it."""
    first = secrets.randbelow(10_000)
    for offset in range(10_000):
        port = 10_000 + (first + offset) % 10_000
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            with socket.create_server((host, port), family=family):
                return port
        except OSError:
            continue
    raise CollectiveError(f"no port of {host} is free")


def _own_address():
    """The address of this host under which rank 0 was announced."""
    return socket.gethostbyname(os.environ.get("MASTER_ADDR", "127.0.0.1"))


def _create(store, rank, size, timeout=timedelta(minutes=5)):
    return ProcessGroupSupernode(store, rank, size, timeout)


dist.Backend.register_backend("supernode", _create)
