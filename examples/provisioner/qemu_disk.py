#!/usr/bin/env python3
"""An `exec` provisioner that grows the system disks of virtual machines: `grow-disk` over QMP, the control socket of QEMU.

The machines are yours: you start them, and their agents enrol as spares. This only makes their disks larger, while they run where
the device can do that. Each machine is started with its system disk as the block node `system`, and with a socket named
after its node:

    qemu-system-x86_64 … -blockdev driver=qcow2,node-name=system,file.driver=file,file.filename=DISK
        -device virtio-blk-pci,drive=system -qmp unix:DIRECTORY/NODE.qmp,server=on,wait=off

An NVMe device of QEMU cannot change its size in a running guest. For such a disk the wish is written to DIRECTORY/NODE.size, in
bytes, and the answer says that the size arrives with a restart. Start the machine with `-no-reboot` in a loop that applies the
wish before each start: `qemu-img resize -f qcow2 DISK SIZE`, never to less than there is.

Environment: SUPERNODE_QMP_DIRECTORY (required). The contract is in README.md. It refuses (exit code 2) to create and delete
nodes, names that could leave the directory, and to make a disk smaller: that one is `grown` already.
"""

import contextlib
import json
import os
import re
import socket
import sys

EXIT_FAILED = 1  # may work when it is repeated
EXIT_REFUSED = 2  # will fail in the same way when it is repeated
BLOCK_NODE = "system"
ANSWER_SECONDS = 20.0
REQUEST_BYTES_MAX = 1 << 20
NODE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


class Refused(Exception):
    """The request is wrong."""


class Failed(Exception):
    """The request is right, and could not be carried out now."""


class Qmp:
    """A control connection to one QEMU. It serves one client at a time; others wait."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(ANSWER_SECONDS)
        self.socket.connect(path)
        self.stream = self.socket.makefile("rw", encoding="utf-8")
        self.stream.readline()
        self.call("qmp_capabilities")

    def call(self, command, **arguments):
        json.dump({"execute": command, "arguments": arguments}, self.stream)
        self.stream.write("\n")
        self.stream.flush()
        for line in self.stream:
            answer = json.loads(line)
            if "error" in answer:
                raise Failed(f"{command}: {answer['error'].get('desc', 'no reason given')}")
            if "return" in answer:
                return answer["return"]
            # Anything else is an event.
        raise Failed(f"{command}: QEMU ended")

    def close(self):
        self.stream.close()
        self.socket.close()


def system_disk(qmp):
    """The size in bytes of the node's system disk, and the type of the device that the guest sees."""
    for device in qmp.call("query-block"):
        inserted = device.get("inserted", {})
        if inserted.get("node-name") == BLOCK_NODE:
            kind = qmp.call("qom-get", path=device["qdev"], property="type")
            return inserted["image"]["virtual-size"], kind
    raise Failed(f"no device of this QEMU has the block node {BLOCK_NODE!r}")


def write_wish(directory, node, size):
    """Says what the disk is to have at the next start; never less than was said before. On disk when this returns."""
    path = os.path.join(directory, f"{node}.size")
    with contextlib.suppress(FileNotFoundError, ValueError):
        with open(path, encoding="utf-8") as file:
            size = max(size, int(file.read()))
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(f"{size}\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def grow(directory, node, size):
    """Answers whether the guest sees the size only after a restart."""
    try:
        with contextlib.closing(Qmp(os.path.join(directory, f"{node}.qmp"))) as qmp:
            present, kind = system_disk(qmp)
            if present >= size:
                return False
            if kind == "nvme":
                write_wish(directory, node, size)
                return True
            qmp.call("block_resize", **{"node-name": BLOCK_NODE, "size": size})
            return False
    except (OSError, ValueError, KeyError) as error:
        raise Failed(f"the QEMU of {node} does not answer: {error!r}") from error


def answer(request, directory):
    if not isinstance(request, dict) or request.get("version") != 1:
        raise Refused("this command speaks version 1 of the contract")
    if request.get("action") != "grow-disk":
        raise Refused(f"this command only grows disks, and was asked for {request.get('action')!r}")
    node, size = request.get("node_name"), request.get("size_bytes")
    if not isinstance(node, str) or not NODE_NAME.fullmatch(node):
        raise Refused("node_name is not the name of a node")
    if not isinstance(size, int) or isinstance(size, bool) or size <= 0:
        raise Refused("size_bytes is not a positive whole number")
    restart = grow(directory, node, size)
    return {"version": 1, "status": "grown", "node_name": node, "provider_id": "", "restart": restart, "message": ""}


def main():
    directory = os.environ.get("SUPERNODE_QMP_DIRECTORY")
    try:
        if not directory:
            raise Refused("SUPERNODE_QMP_DIRECTORY is not set")
        try:
            request = json.loads(sys.stdin.buffer.read(REQUEST_BYTES_MAX))
        except ValueError as error:
            raise Refused(f"the request is not JSON: {error}") from error
        print(json.dumps(answer(request, directory)))
        return 0
    except Refused as error:
        print(f"qemu_disk: refused: {error}", file=sys.stderr)
        return EXIT_REFUSED
    except Failed as error:
        print(f"qemu_disk: {error}", file=sys.stderr)
        return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
