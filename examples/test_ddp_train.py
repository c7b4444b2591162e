#!/usr/bin/env python3
"""Tests of ddp_train.py. What needs PyTorch is skipped where this Python has none; what happens then is tested always."""

import importlib.util
import os
import socket
import subprocess
import sys
import unittest

sys.dont_write_bytecode = True
EXAMPLE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ddp_train.py")
HAS_TORCH = importlib.util.find_spec("torch") is not None


def start(rank, world_size, port, *arguments, python=()):
    environment = {**os.environ, "RANK": str(rank), "WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": str(port)}
    return subprocess.Popen([sys.executable, *python, EXAMPLE, *arguments], env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


class DdpTest(unittest.TestCase):
    def finish(self, process):
        self.addCleanup(process.kill)
        output, errors = process.communicate(timeout=120)
        return process.returncode, output, errors

    def test_without_torch_it_says_what_to_type(self):
        code, _output, errors = self.finish(start(0, 1, 1, python=("-I", "-S")))  # -S: without installed packages
        self.assertEqual(code, 2, errors)
        self.assertIn("bin/pip install torch", errors)
        self.assertNotIn("Traceback", errors)

    def test_an_impossible_rank_is_refused(self):
        code, _output, errors = self.finish(start(3, 2, 1))
        self.assertEqual(code, 2, errors)
        self.assertIn("RANK is '3' and WORLD_SIZE is '2'", errors)

    @unittest.skipUnless(HAS_TORCH, "this Python has no torch")
    def test_two_ranks_end_with_the_same_weights(self):
        with socket.create_server(("127.0.0.1", 0)) as sock:
            port = sock.getsockname()[1]
        weights = set()
        for process in [start(rank, 2, port, "--steps", "50") for rank in range(2)]:
            code, output, errors = self.finish(process)
            self.assertEqual(code, 0, errors)
            self.assertTrue(output.endswith(" ok\n"), output)
            weights.add(output.split("weights=")[1].split()[0])
        self.assertEqual(len(weights), 1)


if __name__ == "__main__":
    unittest.main()
