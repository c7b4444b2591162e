#!/usr/bin/env python3
"""A ring all-reduce in plain Python: the smallest job that needs all of its ranks.

It reads RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, which `supernode` gives every rank of a job, and needs nothing but
Python 3.9. Each iteration fills an array of float64 with values that depend on rank, element and iteration, sums it over
all ranks (reduce-scatter, then all-gather, over a ring of TCP connections), and compares every element of the sum with the
closed form. So it shows that the network works between all neighbours, that the ranks really talk to each other, and how
a job looks when a rank dies.

How the ranks find each other: rank 0 listens at MASTER_ADDR:MASTER_PORT. Each other rank connects (and retries until a
deadline), says where its own ring listener is, and gets the table of all ranks. That connection stays open as the control
connection. Whoever loses a neighbour tells rank 0 and waits for its verdict, so that every rank names the rank that failed
first, and not the neighbour that merely went down with it.

It refuses: environment variables that make no sense, ranks that were started with different arguments or a different
WORLD_SIZE, and two processes with one RANK. It is an example and a test of the fabric, not a fast collective: the
additions are done by the Python interpreter. The control connection is neither encrypted nor authenticated.

Exit codes: 0 all sums were right; 1 a sum was wrong; 2 wrong arguments or environment; 3 another rank failed, or did not
answer in time; 143 stopped by SIGTERM; 130 interrupted.
"""

import argparse
import errno
import ipaddress
import json
import operator
import os
import secrets
import selectors
import signal
import socket
import sys
import time
from array import array

EXIT_WRONG_RESULT = 1
EXIT_USAGE = 2
EXIT_PEER = 3
EXIT_INTERRUPTED = 130
EXIT_STOPPED = 143

PROTOCOL = "supernode-ring-1"
FLOAT_BYTES = 8
PIECE_ELEMENTS = 1 << 17  # work is done in pieces of this size, with a look at the clock and the control connections between
SEND_BYTES = 1 << 20
HANDSHAKE_BYTES = 40  # 32 characters of session, 8 digits of rank
HELLO_SECONDS = 10.0  # a connection that does not introduce itself by then is not one of ours
VERDICT_SECONDS = 10.0  # how long a rank waits for rank 0 to name the rank that failed
ANSWER_SECONDS = 3.0  # how long rank 0 waits for "I am alive"
PERIOD = 997  # the test pattern repeats after so many elements; a prime, so that it never lines up with a chunk


class Stopped(BaseException):
    """SIGTERM arrived. Not an `Exception`, so that no handler on the way takes it for an ordinary failure."""


class UsageError(Exception):
    """Arguments or environment that cannot work."""


class WrongResult(Exception):
    """The sum is not what it must be."""


class PeerFailure(Exception):
    """The job cannot go on because of these ranks."""

    def __init__(self, ranks, reason, exit_code=EXIT_PEER):
        self.ranks = sorted(ranks)
        self.reason = reason
        self.exit_code = exit_code
        word = "rank" if len(self.ranks) == 1 else "ranks"
        super().__init__(f"{word} {', '.join(map(str, self.ranks))} {reason}")


stop_requested = False


def on_sigterm(_number, _frame):
    """Stops the program from wherever it is; a second signal does not disturb the goodbye."""
    global stop_requested
    stop_requested = True
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Stopped


def say(text):
    sys.stdout.write(f"{text}\n")  # one write, so that the lines of ranks that share a pipe stay whole
    sys.stdout.flush()


class Channel:
    """A control connection: one JSON object per line."""

    def __init__(self, sock, peer=None):
        sock.settimeout(5.0)
        self.sock = sock
        self.peer = peer
        self.opened = time.monotonic()
        self.buffer = b""

    def send(self, message):
        """Sends one message. Returns False when the other side is gone; that it is gone shows when reading, too."""
        try:
            self.sock.sendall(json.dumps(message).encode() + b"\n")
            return True
        except OSError:
            return False

    def receive(self):
        """What has arrived, and whether the other side has closed. Only called when the socket is readable."""
        try:
            data = self.sock.recv(1 << 16)
        except OSError:
            data = b""
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        messages = []
        closed = not data or len(self.buffer) > 1 << 22
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:
                message = None
            if not isinstance(message, dict):
                return messages, True  # whoever speaks like this is not one of ours
            messages.append(message)
        return messages, closed


class Progress:
    """Bytes and seconds so far, and one line each second."""

    def __init__(self, rank, world_size):
        self.rank = rank
        self.world_size = world_size
        self.waiting = ""  # what for, while there is no iteration
        self.iteration = 0
        self.reduced_bytes = 0
        self.reduce_seconds = 0.0
        self.started = self.printed = time.monotonic()

    def busbw(self):
        """Bus bandwidth in GB/s as nccl-tests define it: what each link carried, whatever the number of ranks."""
        if self.reduce_seconds == 0.0:
            return 0.0
        return self.reduced_bytes * 2 * (self.world_size - 1) / self.world_size / self.reduce_seconds / 1e9

    def tick(self):
        now = time.monotonic()
        if now - self.printed >= 1.0:
            self.printed = now
            doing = self.waiting or f"iteration {self.iteration}, {now - self.started:.1f} s, busbw {self.busbw():.3f} GB/s"
            say(f"rank {self.rank}: {doing}")


class Group:
    """All ranks as this one sees them: control connections, the two ring connections, and who is to blame."""

    def __init__(self, settings):
        self.rank = settings.rank
        self.world_size = settings.world_size
        self.timeout_seconds = settings.timeout_seconds
        self.next_rank = (self.rank + 1) % self.world_size
        self.previous_rank = (self.rank - 1) % self.world_size
        self.selector = selectors.DefaultSelector()
        self.channels = {}  # rank 0: every other rank; all others: rank 0 only
        self.progress = Progress(self.rank, self.world_size)
        self.next_socket = self.previous_socket = None
        self.table = self.session = None
        self.finished = set()
        self.answered = set()
        self.judging = False
        self.closing = False
        self.looked = 0.0

    # --- control connections ---

    def watch(self, channel):
        self.selector.register(channel.sock, selectors.EVENT_READ, channel)

    def wait(self, seconds):
        """Waits for something to happen, handles control messages, and returns the other events."""
        events = []
        for key, mask in self.selector.select(max(0.0, seconds)):
            if isinstance(key.data, Channel):
                self.on_control(key.data)
            else:
                events.append((key, mask))
        return events

    def wait_until(self, condition, seconds):
        """Handles control messages until the condition holds. Returns whether it does."""
        deadline = time.monotonic() + seconds
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            for key, _mask in self.wait(min(left, 0.25)):
                self.selector.unregister(key.fileobj)  # a ring connection; nothing is expected from it here
            self.progress.tick()
        return True

    def tick(self):
        """Called between pieces of work: progress line, a late SIGTERM, and news from the control connections."""
        if stop_requested:
            raise Stopped
        self.progress.tick()
        now = time.monotonic()
        if now - self.looked >= 0.25:
            self.looked = now
            self.wait(0.0)

    def on_control(self, channel):
        messages, closed = channel.receive()
        for message in messages:
            self.on_message(channel, message)
        if closed:
            self.selector.unregister(channel.sock)
            if self.closing:
                self.answered.add(channel.peer)
            elif channel.peer is not None and not (self.rank != 0 and 0 in self.finished):
                raise PeerFailure([channel.peer], "closed its connection: it died or was killed")

    def on_message(self, channel, message):
        kind = message.get("type")
        if kind == "alive":
            self.answered.add(channel.peer)
        elif kind == "done":
            self.finished.add(channel.peer)
        elif self.closing:
            pass
        elif kind == "abort" and self.rank != 0:
            raise PeerFailure(message["ranks"], message["reason"], message["exit_code"])
        elif kind == "failed" and self.rank == 0:
            raise PeerFailure([channel.peer], message["reason"], message["exit_code"])
        elif kind == "ask" and self.rank != 0:
            channel.send({"type": "alive"})
        elif kind == "table" and self.rank != 0:
            self.table, self.session = message["ranks"], message["session"]
        elif kind == "lost" and self.rank == 0 and not self.judging:
            if message["rank"] == 0:
                raise PeerFailure([channel.peer], "lost its connection to rank 0")
            self.on_lost(message["rank"])
        elif kind == "stalled" and self.rank == 0 and not self.judging:
            self.on_stalled(message["rank"])

    # --- who is to blame ---

    def on_lost(self, peer):
        """A ring connection broke. Rank 0 decides: it sees whose control connection ended first."""
        failure = PeerFailure([peer], "closed its connection: it died or was killed")
        self.judging = True
        if self.rank == 0:
            self.wait_until(lambda: False, 1.0)  # raises what the control connection of that rank says
        else:
            self.channels[0].send({"type": "lost", "rank": peer})
            self.wait_until(lambda: False, VERDICT_SECONDS)
        raise failure

    def on_stalled(self, peer):
        """Nothing moved for too long. In a ring everybody stands still together, so rank 0 asks who is there."""
        self.judging = True
        seconds = f"{self.timeout_seconds:g} s"
        if self.rank != 0:
            self.channels[0].send({"type": "stalled", "rank": peer})
            self.wait_until(lambda: False, VERDICT_SECONDS)
            raise PeerFailure([0], f"does not answer, and no data moved for {seconds}")
        self.answered = {rank for rank, channel in self.channels.items() if not channel.send({"type": "ask"})}
        silent = set(self.answered)
        self.wait_until(lambda: len(self.answered) == self.world_size - 1, ANSWER_SECONDS)
        silent |= set(self.channels) - self.answered
        if silent:
            raise PeerFailure(silent, f"did not answer for {seconds} (hung, suspended, or cut off from the network)")
        raise PeerFailure([peer], f"moved no data for {seconds}, though it answers")

    def leave(self, ranks, reason, exit_code):
        """Tells the others why this rank goes; rank 0 tells all, and stays until they have heard it."""
        self.closing = True
        if self.rank != 0:
            if 0 in self.channels and self.rank in ranks:
                self.channels[0].send({"type": "failed", "reason": reason, "exit_code": exit_code})
            return
        self.answered = set()
        for channel in self.channels.values():
            sent = channel.send({"type": "abort", "ranks": ranks, "reason": reason, "exit_code": exit_code})
            try:
                channel.sock.shutdown(socket.SHUT_WR)
            except OSError:
                sent = False
            if not sent or channel.peer in ranks:
                self.answered.add(channel.peer)
        self.wait_until(lambda: self.answered >= set(self.channels), 1.0)

    def finish(self):
        """All ranks are done when rank 0 says so; nobody hangs up before, or it would look like a death."""
        if self.world_size == 1:
            return
        others = set(self.channels)
        if self.rank != 0:
            self.channels[0].send({"type": "done"})
        if not self.wait_until(lambda: self.finished >= others, self.timeout_seconds):
            self.on_stalled(min(others - self.finished))
        for channel in self.channels.values():
            if self.rank == 0:
                channel.send({"type": "done"})

    # --- the ring ---

    def exchange(self, outgoing, incoming):
        """Sends to the next rank and receives from the previous one at once, so that full buffers never wait in a circle."""
        sent = received = 0
        moved = time.monotonic()
        if len(incoming):
            self.selector.register(self.previous_socket, selectors.EVENT_READ)
        if len(outgoing):
            self.selector.register(self.next_socket, selectors.EVENT_WRITE)
        while sent < len(outgoing) or received < len(incoming):
            for key, _mask in self.wait(0.25):
                peer = self.next_rank if key.fileobj is self.next_socket else self.previous_rank
                try:
                    if key.fileobj is self.next_socket:
                        count = self.next_socket.send(outgoing[sent:sent + SEND_BYTES])
                        sent += count
                        complete = sent == len(outgoing)
                    else:
                        count = self.previous_socket.recv_into(incoming[received:])
                        received += count
                        complete = received == len(incoming)
                except BlockingIOError:
                    continue
                except OSError:
                    count = 0
                if count == 0:
                    self.selector.unregister(key.fileobj)
                    self.on_lost(peer)
                if complete:
                    self.selector.unregister(key.fileobj)
                moved = time.monotonic()
            self.tick()
            if time.monotonic() - moved > self.timeout_seconds:
                self.on_stalled(self.previous_rank if received < len(incoming) else self.next_rank)

    def all_reduce(self, data):
        """Sums `data` over all ranks, in place: n-1 steps of reduce-scatter, n-1 steps of all-gather."""
        size = self.world_size
        if size == 1:
            return
        bounds = [len(data) * index // size for index in range(size + 1)]
        view = memoryview(data).cast("B")

        def chunk(index):
            return bounds[index % size], bounds[index % size + 1]

        def octets(index):
            low, high = chunk(index)
            return view[low * FLOAT_BYTES:high * FLOAT_BYTES]

        scratch = array("d", bytes(FLOAT_BYTES * max(high - low for low, high in zip(bounds, bounds[1:]))))
        scratch_view = memoryview(scratch).cast("B")
        for step in range(size - 1):
            low, high = chunk(self.rank - step - 1)
            self.exchange(octets(self.rank - step), scratch_view[:(high - low) * FLOAT_BYTES])
            for start in range(low, high, PIECE_ELEMENTS):
                end = min(start + PIECE_ELEMENTS, high)
                data[start:end] = array("d", map(operator.add, data[start:end], scratch[start - low:end - low]))
                self.tick()
        for step in range(size - 1):
            self.exchange(octets(self.rank - step + 1), octets(self.rank - step))


# --- finding each other ---


def listen(address, port, backlog):
    """A listener at this address. A name is served on all addresses: hosts often resolve their own name to loopback."""
    literal = "127.0.0.1" if address == "localhost" else address
    try:
        loopback = ipaddress.ip_address(literal).is_loopback
    except ValueError:
        loopback = False
    if loopback:
        family = socket.AF_INET6 if ":" in literal else socket.AF_INET
        return socket.create_server((literal, port), family=family, backlog=backlog)
    try:
        return socket.create_server(("", port), family=socket.AF_INET6, backlog=backlog, dualstack_ipv6=True)
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:  # in use: the other family would not help
            raise
        return socket.create_server(("", port), backlog=backlog)


def terms(settings):
    """What all ranks must agree on."""
    return {"WORLD_SIZE": settings.world_size, "--elements": settings.elements, "--iterations": settings.iterations,
            "--seconds": settings.seconds}


def rendezvous_as_master(group, settings, ring_port):
    """Rank 0: waits for every other rank to register, then sends the table to all."""
    try:
        listener = listen(settings.master_addr, settings.master_port, settings.world_size + 16)
    except OSError as error:
        raise UsageError(f"rank 0 cannot listen on port {settings.master_port} (MASTER_PORT): {error}; "
                         "free the port or choose another") from error
    addresses = {0: [settings.master_addr, ring_port]}
    strangers = []
    deadline = time.monotonic() + settings.rendezvous_seconds
    group.selector.register(listener, selectors.EVENT_READ)
    listener.setblocking(False)

    def registered(channel, hello):
        """Checks who it is; from here on the connection is that rank's control connection."""
        rank, theirs, ours = hello.get("rank"), hello.get("terms"), terms(settings)
        if not (isinstance(rank, int) and isinstance(theirs, dict) and isinstance(hello.get("host"), str)
                and isinstance(hello.get("port"), int)):
            return False
        problem = None
        for name, value in ours.items():
            if theirs.get(name) != value:
                problem = f"was started with {name}={theirs.get(name)}, and rank 0 with {name}={value}: they must be the same"
                break
        else:
            if rank in addresses:
                problem = f"was started twice: two processes have RANK={rank}"
        if problem:
            channel.send({"type": "abort", "ranks": [rank], "reason": problem, "exit_code": EXIT_USAGE})
            raise PeerFailure([rank], problem, EXIT_USAGE)
        addresses[rank] = [hello["host"], hello["port"]]
        channel.peer = rank
        group.channels[rank] = channel
        group.watch(channel)
        return True

    while len(addresses) < settings.world_size:
        now = time.monotonic()
        group.progress.waiting = f"{len(addresses)} of {settings.world_size} ranks registered"
        if now >= deadline:
            missing = set(range(settings.world_size)) - set(addresses)
            raise PeerFailure(missing, f"did not register at {settings.master_addr}:{settings.master_port} "
                                       f"within {settings.rendezvous_seconds:g} s")
        for channel in [one for one in strangers if now - one.opened > HELLO_SECONDS]:
            strangers.remove(channel)
            group.selector.unregister(channel.sock)
            channel.sock.close()
        for key, _mask in group.wait(min(deadline - now, 0.25)):
            if key.fileobj is listener:
                try:
                    sock, _address = listener.accept()
                except OSError:
                    continue
                channel = Channel(sock)
                strangers.append(channel)
                group.selector.register(sock, selectors.EVENT_READ, ("stranger", channel))
                continue
            channel = key.data[1]
            messages, closed = channel.receive()
            if not messages and not closed:
                continue
            strangers.remove(channel)
            group.selector.unregister(channel.sock)
            if not messages or messages[0].get("type") != PROTOCOL or not registered(channel, messages[0]):
                channel.sock.close()
        group.progress.tick()
    group.selector.unregister(listener)
    listener.close()
    for channel in strangers:
        group.selector.unregister(channel.sock)
        channel.sock.close()
    group.session = secrets.token_hex(16)
    group.table = [addresses[rank] for rank in range(settings.world_size)]
    for channel in group.channels.values():
        channel.send({"type": "table", "session": group.session, "ranks": group.table})


def connect_to_master(settings, progress):
    """All other ranks: connects to rank 0, which may not be there yet."""
    deadline = time.monotonic() + settings.rendezvous_seconds
    progress.waiting = f"waiting for rank 0 at {settings.master_addr}:{settings.master_port}"
    while True:
        left = deadline - time.monotonic()
        try:
            sock = socket.create_connection((settings.master_addr, settings.master_port), timeout=max(0.1, min(5.0, left)))
            if sock.getsockname() != sock.getpeername():
                return sock
            sock.close()  # nobody listens yet, and the kernel gave us that very port: we were talking to ourselves
        except OSError as error:
            if left <= 0:
                raise PeerFailure([0], f"did not answer at {settings.master_addr}:{settings.master_port} within "
                                       f"{settings.rendezvous_seconds:g} s ({error})") from error
        progress.tick()
        time.sleep(0.1)


def join(group, settings):
    """Rendezvous, then the two ring connections of this rank."""
    if settings.world_size == 1:
        return
    if settings.rank == 0:
        ring_listener = listen(settings.master_addr, 0, 16)
        rendezvous_as_master(group, settings, ring_listener.getsockname()[1])
    else:
        channel = Channel(connect_to_master(settings, group.progress), peer=0)
        group.channels[0] = channel
        host = channel.sock.getsockname()[0]  # the address by which this host reaches rank 0
        ring_listener = socket.create_server((host, 0), family=channel.sock.family, backlog=16)
        channel.send({"type": PROTOCOL, "rank": settings.rank, "terms": terms(settings), "host": host,
                      "port": ring_listener.getsockname()[1]})
        group.watch(channel)
        group.progress.waiting = "registered, waiting for all ranks"
        # A little longer than rank 0 waits: it knows who is missing, and its answer is the better one.
        if not group.wait_until(lambda: group.table is not None, settings.rendezvous_seconds + 5.0):
            raise PeerFailure([0], f"did not send the table of ranks within {settings.rendezvous_seconds + 5.0:g} s")
    connect_ring(group, ring_listener)
    group.progress.waiting = ""
    say(f"rank {group.rank}: ring of {group.world_size} ranks is connected")


def connect_ring(group, ring_listener):
    """Connects to the next rank and waits for the previous one; connections of strangers are dropped."""
    host, port = group.table[group.next_rank]
    try:
        group.next_socket = socket.create_connection((host, port), timeout=group.timeout_seconds)
        group.next_socket.sendall(f"{group.session}{group.rank:08d}".encode())
    except OSError:
        group.on_lost(group.next_rank)
    expected = f"{group.session}{group.previous_rank:08d}".encode()
    deadline = time.monotonic() + group.timeout_seconds
    ring_listener.setblocking(False)
    group.selector.register(ring_listener, selectors.EVENT_READ)
    while group.previous_socket is None:
        if time.monotonic() > deadline:
            group.on_stalled(group.previous_rank)
        if not group.wait(0.25):
            continue
        try:
            sock, _address = ring_listener.accept()
        except OSError:
            continue
        sock.settimeout(HELLO_SECONDS)
        try:
            if sock.recv(HANDSHAKE_BYTES, socket.MSG_WAITALL) == expected:
                group.previous_socket = sock
                continue
        except OSError:
            pass
        sock.close()
    group.selector.unregister(ring_listener)
    ring_listener.close()
    for sock in (group.next_socket, group.previous_socket):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)


# --- the job ---


def pattern(elements, iteration, factor):
    """Element i is ((i + iteration) mod PERIOD + 1) * factor: whole numbers, so that sums of float64 are exact."""
    shift = iteration % PERIOD
    period = array("d", [((index + shift) % PERIOD + 1) * factor for index in range(PERIOD)])
    return (period * (elements // PERIOD + 1))[:elements]


def verify(data, elements, iteration, world_size, tick):
    """Compares every element with the closed form: the factors of all ranks add up to n(n+1)/2."""
    expected = pattern(elements, iteration, world_size * (world_size + 1) // 2)
    for start in range(0, elements, PIECE_ELEMENTS):
        end = min(start + PIECE_ELEMENTS, elements)
        if data[start:end].tobytes() != expected[start:end].tobytes():
            index = next(i for i in range(start, end) if data[i] != expected[i])
            raise WrongResult(f"wrong sum in iteration {iteration}: element {index} is {data[index]!r}, "
                              f"and must be {expected[index]!r}")
        tick()


def run(group, settings):
    """The iterations. The last element of the array is a vote: when its sum is not 0, every rank stops after this one."""
    progress = group.progress
    while True:
        data = pattern(settings.elements, progress.iteration, settings.rank + 1)
        if settings.seconds is None:
            last = progress.iteration + 1 >= settings.iterations
        else:
            last = time.monotonic() - progress.started >= settings.seconds
        data.append(1.0 if settings.rank == 0 and last else 0.0)
        if settings.corrupt_rank == settings.rank and progress.iteration == 1:
            data[0] += 1.0
        started = time.monotonic()
        group.all_reduce(data)
        progress.reduce_seconds += time.monotonic() - started
        progress.reduced_bytes += settings.elements * FLOAT_BYTES
        verify(data, settings.elements, progress.iteration, settings.world_size, group.tick)
        progress.iteration += 1
        group.tick()
        if data[settings.elements] != 0.0:
            return


def environment_number(name, low, high):
    value = os.environ.get(name)
    if value is None:
        raise UsageError(f"the environment variable {name} is not set: start this under `supernode job`, or set RANK, "
                         "WORLD_SIZE, MASTER_ADDR and MASTER_PORT by hand")
    try:
        number = int(value)
    except ValueError:
        number = None
    if number is None or not low <= number <= high:
        raise UsageError(f"{name} is {value!r}, and must be a whole number from {low} to {high}")
    return number


def positive(kind):
    def parse(text):
        number = kind(text)
        if not 0 < number < float("inf"):
            raise argparse.ArgumentTypeError(f"must be greater than 0, is {text}")
        return number
    return parse


def parse_settings(arguments):
    parser = argparse.ArgumentParser(description="Ring all-reduce over TCP; every sum is checked on every rank.")
    parser.add_argument("--iterations", type=positive(int), default=20, help="number of all-reduces (default 20)")
    parser.add_argument("--elements", type=positive(int), default=1_000_000, help="float64 values per rank (default 1000000)")
    parser.add_argument("--seconds", type=positive(float), help="go on for about so many seconds instead of --iterations")
    parser.add_argument("--timeout-seconds", type=positive(float), default=30.0,
                        help="give up when no data moved for so long (default 30)")
    parser.add_argument("--rendezvous-seconds", type=positive(float), default=60.0,
                        help="how long to wait for all ranks to appear (default 60)")
    parser.add_argument("--corrupt-rank", type=int,
                        help="let this rank contribute one wrong value in its second iteration, to see how that looks")
    settings = parser.parse_args(arguments)
    settings.world_size = environment_number("WORLD_SIZE", 1, 99_999_999)
    settings.rank = environment_number("RANK", 0, settings.world_size - 1)
    if settings.world_size > 1:
        settings.master_port = environment_number("MASTER_PORT", 1, 65535)
        settings.master_addr = os.environ.get("MASTER_ADDR", "")
        if not settings.master_addr:
            raise UsageError("the environment variable MASTER_ADDR is not set: it is the host of rank 0")
    return settings


def complain(rank, text):
    sys.stderr.write(f"ring_allreduce: rank {rank}: error: {text}\n")
    sys.stderr.flush()


def work(settings):
    """Runs the job and turns every ending into an exit code."""
    group = Group(settings)
    rank = settings.rank
    try:
        join(group, settings)
        run(group, settings)
        group.finish()
    except PeerFailure as failure:
        complain(rank, failure)
        group.leave(failure.ranks, failure.reason, failure.exit_code)
        if failure.exit_code == EXIT_STOPPED:
            # Whoever stops a job signals every rank; ours may be a moment behind. It ends as stopped, not as failed.
            time.sleep(1.0)
            return EXIT_PEER
        return failure.exit_code
    except UsageError as error:
        complain(rank, error)
        group.leave([rank], f"cannot start: {error}", EXIT_USAGE)
        return EXIT_USAGE
    except WrongResult as error:
        complain(rank, error)
        group.leave([rank], f"found a {error}", EXIT_WRONG_RESULT)
        return EXIT_WRONG_RESULT
    except Stopped:
        say(f"rank {rank}: stopped by SIGTERM after {group.progress.iteration} iterations")
        group.leave([rank], "was stopped by SIGTERM", EXIT_STOPPED)
        return EXIT_STOPPED
    except (OSError, MemoryError) as error:
        complain(rank, f"{type(error).__name__}: {error}")
        group.leave([rank], f"failed: {type(error).__name__}: {error}", EXIT_PEER)
        return EXIT_PEER
    say(f"rank={rank} world_size={settings.world_size} iterations={group.progress.iteration} "
        f"bytes={settings.elements * FLOAT_BYTES} busbw={group.progress.busbw():.3f} GB/s ok")
    return 0


def main(arguments):
    try:
        signal.signal(signal.SIGTERM, on_sigterm)
        settings = parse_settings(arguments)
        return work(settings)
    except UsageError as error:
        print(f"ring_allreduce: error: {error}", file=sys.stderr, flush=True)
        return EXIT_USAGE
    except Stopped:
        return EXIT_STOPPED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
