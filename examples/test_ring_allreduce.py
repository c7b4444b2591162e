#!/usr/bin/env python3
"""Tests of ring_allreduce.py: real processes on loopback, also processes that die, hang, or were started wrongly.

Run it with `python3 examples/test_ring_allreduce.py`. Nothing here sleeps for a fixed time: a test waits for the line that
says that the state it needs is there, and every wait has a deadline.
"""

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest

sys.dont_write_bytecode = True
EXAMPLE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ring_allreduce.py")
DEADLINE_SECONDS = 60.0


def free_port():
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


class Rank:
    """One rank as a process; its lines, errors included, come through a queue."""

    def __init__(self, rank, world_size, port, arguments, address="127.0.0.1"):
        environment = {"PATH": os.environ.get("PATH", ""), "RANK": str(rank), "WORLD_SIZE": str(world_size),
                       "MASTER_ADDR": address, "MASTER_PORT": str(port)}
        self.rank = rank
        self.process = subprocess.Popen([sys.executable, EXAMPLE, *arguments], env=environment, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.incoming = queue.Queue()
        self.lines = []
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            self.incoming.put(line.rstrip("\n"))
        self.incoming.put(None)

    def next_line(self, deadline):
        line = self.incoming.get(timeout=max(0.01, deadline - time.monotonic()))
        if line is not None:
            self.lines.append(line)
        return line

    def wait_for(self, text):
        """Waits for a line with this text."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            line = self.next_line(deadline)
            if line is None:
                raise AssertionError(f"rank {self.rank} ended without {text!r}: {self.lines}")
            if text in line:
                return line

    def end(self):
        """Waits for the end. Returns exit code and all lines."""
        self.process.wait(DEADLINE_SECONDS)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while self.next_line(deadline) is not None:
            pass
        return self.process.returncode, "\n".join(self.lines)

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.reader.join()
        self.process.stdout.close()


class RingTest(unittest.TestCase):
    def start(self, world_size, *arguments, ranks=None, address="127.0.0.1"):
        port = free_port()
        started = []
        # The highest rank first: they have to wait for rank 0.
        for rank in sorted(range(world_size) if ranks is None else ranks, reverse=True):
            process = Rank(rank, world_size, port, arguments, address)
            self.addCleanup(process.stop)
            started.append(process)
        return started[::-1]

    def check_good(self, ranks, world_size, elements, iterations):
        for rank in ranks:
            code, output = rank.end()
            self.assertEqual(code, 0, output)
            last = output.splitlines()[-1]
            self.assertTrue(last.startswith(f"rank={rank.rank} world_size={world_size} iterations={iterations} "
                                            f"bytes={elements * 8} busbw="), last)
            self.assertTrue(last.endswith(" ok"), last)

    def check_bad(self, rank, code, text):
        actual, output = rank.end()
        self.assertEqual(actual, code, output)
        self.assertIn(text, output)
        self.assertNotIn("Traceback", output)
        self.assertNotIn(" ok", output)

    def test_sums_are_right_for_several_world_sizes(self):
        for world_size in (1, 2, 3, 5):
            with self.subTest(world_size=world_size):
                ranks = self.start(world_size, "--iterations", "4", "--elements", "10007")
                self.check_good(ranks, world_size, 10007, 4)

    def test_fewer_elements_than_ranks(self):
        self.check_good(self.start(5, "--iterations", "3", "--elements", "1"), 5, 1, 3)

    def test_a_name_as_master_address(self):
        self.check_good(self.start(2, "--iterations", "2", "--elements", "5", address="localhost"), 2, 5, 2)

    def test_big_buffers_do_not_deadlock(self):
        # 64 MB per rank and 32 MB per message: far more than all socket buffers between two ranks hold.
        self.check_good(self.start(2, "--iterations", "1", "--elements", "8000000"), 2, 8_000_000, 1)

    def test_seconds_ends_all_ranks_after_the_same_iteration(self):
        started = time.monotonic()
        ranks = self.start(3, "--seconds", "2.2", "--elements", "20000")
        ranks[1].wait_for("rank 1: iteration")  # a progress line each second
        iterations = set()
        for rank in ranks:
            code, output = rank.end()
            self.assertEqual(code, 0, output)
            iterations.add(output.splitlines()[-1].split("iterations=")[1].split()[0])
        self.assertEqual(len(iterations), 1)
        self.assertGreaterEqual(time.monotonic() - started, 2.2)

    def test_a_killed_rank_is_named_by_all_others(self):
        for victim in (0, 1, 3):
            with self.subTest(victim=victim):
                ranks = self.start(4, "--seconds", "600", "--elements", "300000", "--timeout-seconds", "30")
                for rank in ranks:
                    rank.wait_for("iteration")
                killed = time.monotonic()
                ranks[victim].process.kill()
                for rank in ranks:
                    if rank.rank != victim:
                        self.check_bad(rank, 3, f"error: rank {victim} closed its connection")
                self.assertLess(time.monotonic() - killed, 20.0)

    def test_a_suspended_rank_is_named_after_the_timeout(self):
        for victim in (0, 2):
            with self.subTest(victim=victim):
                ranks = self.start(3, "--seconds", "600", "--elements", "1000", "--timeout-seconds", "2")
                for rank in ranks:
                    rank.wait_for("iteration")
                ranks[victim].process.send_signal(signal.SIGSTOP)
                for rank in ranks:
                    if rank.rank != victim:
                        self.check_bad(rank, 3, f"error: rank {victim} d")  # did not answer, does not answer

    def test_a_rank_that_dies_in_the_rendezvous_is_named(self):
        ranks = self.start(3, ranks=[0, 1])
        ranks[0].wait_for("2 of 3 ranks registered")
        ranks[1].process.kill()
        self.check_bad(ranks[0], 3, "error: rank 1 closed its connection")

    def test_ranks_that_do_not_come_are_named(self):
        ranks = self.start(4, "--rendezvous-seconds", "1.5", ranks=[0, 2])
        for rank in ranks:
            self.check_bad(rank, 3, "error: ranks 1, 3 did not register at 127.0.0.1:")

    def test_rank_0_that_does_not_come_is_named(self):
        ranks = self.start(2, "--rendezvous-seconds", "1", ranks=[1])
        self.check_bad(ranks[0], 3, "error: rank 0 did not answer at 127.0.0.1:")

    def start_two(self, second, **environment):
        """Rank 0 of two, and another process that differs from rank 1 of two."""
        port = free_port()
        first = Rank(0, 2, port, [])
        self.addCleanup(first.stop)
        other = Rank(environment.get("rank", 1), environment.get("world_size", 2), port, second)
        self.addCleanup(other.stop)
        return first, other

    def test_different_world_sizes_are_refused(self):
        for rank in self.start_two([], world_size=3):
            self.check_bad(rank, 2, "error: rank 1 was started with WORLD_SIZE=3, and rank 0 with WORLD_SIZE=2")

    def test_different_arguments_are_refused(self):
        for rank in self.start_two(["--elements", "5"]):
            self.check_bad(rank, 2, "error: rank 1 was started with --elements=5, and rank 0 with --elements=1000000")

    def test_environment_that_makes_no_sense_is_refused(self):
        cases = [({"RANK": "2"}, "RANK is '2', and must be a whole number from 0 to 1"),
                 ({"RANK": "x"}, "RANK is 'x'"), ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0'"),
                 ({"RANK": None}, "RANK is not set"), ({"MASTER_ADDR": None}, "MASTER_ADDR is not set"),
                 ({"MASTER_PORT": "70000"}, "MASTER_PORT is '70000'")]
        for changes, text in cases:
            with self.subTest(changes=changes):
                environment = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", **changes}
                environment = {name: value for name, value in environment.items() if value is not None}
                result = subprocess.run([sys.executable, EXAMPLE], env=environment, capture_output=True, text=True,
                                        timeout=DEADLINE_SECONDS, check=False)
                self.assertEqual(result.returncode, 2, result.stderr)
                self.assertIn(text, result.stderr)

    def test_a_busy_port_is_named(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            rank = Rank(0, 2, taken.getsockname()[1], [])
            self.addCleanup(rank.stop)
            self.check_bad(rank, 2, f"cannot listen on port {taken.getsockname()[1]} (MASTER_PORT)")

    def test_strangers_at_the_rendezvous_do_no_harm(self):
        port = free_port()
        first = Rank(0, 2, port, ["--iterations", "2", "--elements", "100"])
        self.addCleanup(first.stop)
        deadline = time.monotonic() + DEADLINE_SECONDS
        for greeting in (b"GET / HTTP/1.0\r\n\r\n", b"", b'{"type":"supernode-ring-1"}\n'):
            while True:
                try:
                    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
                        sock.sendall(greeting)
                    break
                except OSError:
                    self.assertLess(time.monotonic(), deadline)
        second = Rank(1, 2, port, ["--iterations", "2", "--elements", "100"])
        self.addCleanup(second.stop)
        self.check_good([first, second], 2, 100, 2)

    def test_a_wrong_sum_fails_every_rank(self):
        for rank in self.start(3, "--corrupt-rank", "2", "--elements", "1000"):
            self.check_bad(rank, 1, "wrong sum in iteration 1: element 0 is 13.0, and must be 12.0")

    def test_sigterm_to_all_ranks(self):
        for world_size in (1, 3):
            with self.subTest(world_size=world_size):
                ranks = self.start(world_size, "--seconds", "600", "--elements", "200000")
                for rank in ranks:
                    rank.wait_for("iteration")
                for rank in ranks:
                    rank.process.send_signal(signal.SIGTERM)
                for rank in ranks:
                    code, output = rank.end()
                    self.assertEqual(code, 143, output)
                    self.assertNotIn("Traceback", output)

    def test_sigterm_to_one_rank_is_named_by_the_others(self):
        ranks = self.start(3, "--seconds", "600", "--elements", "200000")
        for rank in ranks:
            rank.wait_for("iteration")
        ranks[1].process.send_signal(signal.SIGTERM)
        self.assertEqual(ranks[1].end()[0], 143)
        for rank in (ranks[0], ranks[2]):
            self.check_bad(rank, 3, "error: rank 1 was stopped by SIGTERM")

    def test_sigterm_while_waiting_for_the_others(self):
        (rank,) = self.start(2, ranks=[1])
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:  # until the handler is in place: bit 14 of the mask of caught signals
            with open(f"/proc/{rank.process.pid}/status", encoding="ascii") as status:
                caught = next((line for line in status if line.startswith("SigCgt:")), "SigCgt: 0")
            if int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1:
                break
            self.assertLess(time.monotonic(), deadline)
        rank.process.send_signal(signal.SIGTERM)
        self.check_bad(rank, 143, "")


if __name__ == "__main__":
    unittest.main()
