#!/usr/bin/env python3
"""Tests of qemu_disk.py against a socket that speaks QMP as QEMU does. Against QEMU itself it is tested by the project's tests in
virtual machines.

Run it with `python3 examples/provisioner/test_qemu_disk.py`.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
PROVISIONER = os.path.join(HERE, "qemu_disk.py")
GIB = 1 << 30


class Qemu:
    """What a QEMU with one disk answers; it notes what it was asked to do."""

    def __init__(self, path, kind, size):
        self.kind, self.size, self.resizes = kind, size, 0
        self.refuse = None
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.bind(path)
        self.socket.listen()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection, connection.makefile("rw") as stream:
                self.send(stream, {"QMP": {"version": {}, "capabilities": []}})
                for line in stream:
                    # Events come at any time.
                    self.send(stream, {"event": "RTC_CHANGE", "data": {}})
                    self.send(stream, self.answer(json.loads(line)))

    @staticmethod
    def send(stream, message):
        stream.write(json.dumps(message) + "\r\n")
        stream.flush()

    def answer(self, request):
        arguments = request["arguments"]
        if request["execute"] == "query-block":
            disk = {"node-name": "system", "image": {"virtual-size": self.size}}
            other = {"node-name": "data", "image": {"virtual-size": 7}}
            return {"return": [{"device": "empty"}, {"qdev": "/other", "inserted": other}, {"qdev": "/disk", "inserted": disk}]}
        if request["execute"] == "qom-get":
            assert arguments == {"path": "/disk", "property": "type"}
            return {"return": self.kind}
        if request["execute"] == "block_resize":
            if self.refuse:
                return {"error": {"class": "GenericError", "desc": self.refuse}}
            assert arguments["node-name"] == "system" and arguments["size"] > self.size
            self.size, self.resizes = arguments["size"], self.resizes + 1
        return {"return": {}}

    def close(self):
        self.socket.close()


class Grow(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name

    def qemu(self, kind="virtio-blk-device", size=GIB):
        qemu = Qemu(os.path.join(self.directory, "n1.qmp"), kind, size)
        self.addCleanup(qemu.close)
        return qemu

    def call(self, code=0, **fields):
        request = {"version": 1, "action": "grow-disk", "request_id": "r", "node_name": "n1", "size_bytes": 2 * GIB}
        environment = {**os.environ, "SUPERNODE_QMP_DIRECTORY": self.directory}
        done = subprocess.run([sys.executable, PROVISIONER], input=json.dumps({**request, **fields}).encode(),
                              env=environment, capture_output=True, timeout=60)
        self.assertEqual(done.returncode, code, done.stderr)
        return json.loads(done.stdout) if code == 0 else done.stderr.decode()

    def test_a_disk_grows_once_and_never_shrinks(self):
        qemu = self.qemu()
        for size in (2 * GIB, 2 * GIB, GIB):
            answer = self.call(size_bytes=size)
            self.assertEqual((answer["status"], answer["restart"]), ("grown", False))
        self.assertEqual((qemu.size, qemu.resizes), (2 * GIB, 1))

    def test_a_device_that_cannot_leaves_a_wish_that_only_grows(self):
        qemu = self.qemu(kind="nvme")
        for size in (2 * GIB, 3 * GIB, 2 * GIB):
            self.assertTrue(self.call(size_bytes=size)["restart"])
        with open(os.path.join(self.directory, "n1.size"), encoding="utf-8") as file:
            self.assertEqual(int(file.read()), 3 * GIB)
        self.assertEqual(qemu.resizes, 0)
        qemu.size = 3 * GIB
        self.assertFalse(self.call(size_bytes=3 * GIB)["restart"], "it was restarted")

    def test_failures_are_tried_again_and_say_why(self):
        self.assertIn("n1", self.call(code=1))
        self.qemu().refuse = "No space left on device"
        self.assertIn("No space left on device", self.call(code=1))

    def test_what_makes_no_sense_is_refused(self):
        for fields in ({"action": "create"}, {"version": 2}, {"node_name": "../n1"}, {"node_name": 7}, {"size_bytes": 0},
                       {"size_bytes": True}, {"size_bytes": "2"}):
            self.assertIn("refused", self.call(code=2, **fields))


if __name__ == "__main__":
    unittest.main()
