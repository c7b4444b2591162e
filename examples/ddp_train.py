#!/usr/bin/env python3
"""Data-parallel training with PyTorch DDP over gloo: a small MLP, synthetic data, no accelerator needed.

It reads RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT (`env://`), which `supernode` gives every rank of a job. Every rank
learns the function of a fixed "teacher" network from its own share of random samples. At the end it checks what distributed
training must give: bit for bit the same weights on all ranks, and a loss that fell.

It refuses to run without PyTorch, and says what to type. It fixes all seeds, so that two runs with one world size on one
kind of machine print the same losses.

Exit codes: 0 trained, checks passed; 1 a check failed, or the training; 2 PyTorch is missing, or wrong arguments or environment.
"""

import argparse
import fcntl
import hashlib
import os
import socket
import struct
import sys
import time
from datetime import timedelta

INPUTS, HIDDEN, OUTPUTS, BATCH = 32, 128, 4, 64
SIOCGIFADDR = 0x8915  # Linux: the IPv4 address of an interface

MISSING = """\
ddp_train: error: {python} cannot import PyTorch ({error})
Type one of these on every node, and start the job with that Python (its absolute path):
  python3 -m venv /opt/torch && /opt/torch/bin/pip install torch numpy     then run /opt/torch/bin/python ddp_train.py
  apt-get install --no-install-recommends python3-torch                    Debian, Ubuntu: CPU only, small; run /usr/bin/python3
The wheels for Linux on x86_64 bring CUDA with them (3 GB). For CPUs only, add to pip: --index-url https://download.pytorch.org/whl/cpu
"""


class UsageError(Exception):
    """Arguments or environment that cannot work."""


def say(text):
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def parse_settings(arguments):
    parser = argparse.ArgumentParser(description="PyTorch DDP on CPUs: a small MLP on synthetic data.")
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps (default 200, at least 20)")
    parser.add_argument("--learning-rate", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--timeout-seconds", type=float, default=60.0, help="of the rendezvous and of each collective")
    settings = parser.parse_args(arguments)
    if settings.steps < 20:
        parser.error("--steps must be at least 20, or there is no trend to check")
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name):
            raise UsageError(f"the environment variable {name} is not set: start this under `supernode job`, or set RANK, "
                             "WORLD_SIZE, MASTER_ADDR and MASTER_PORT by hand")
    try:
        settings.rank, settings.world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except ValueError:
        settings.rank = settings.world_size = -1
    if not 0 <= settings.rank < settings.world_size:
        raise UsageError(f"RANK is {os.environ['RANK']!r} and WORLD_SIZE is {os.environ['WORLD_SIZE']!r}: "
                         "RANK must be a whole number from 0 to WORLD_SIZE - 1")
    return settings


def choose_interface():
    """Tells gloo which interface leads to rank 0; by itself it takes what the host name resolves to, often loopback."""
    if os.environ.get("GLOO_SOCKET_IFNAME"):
        return
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])))  # sends nothing, only picks a route
            local = sock.getsockname()[0]
            for _index, name in socket.if_nameindex():
                try:
                    answer = fcntl.ioctl(sock.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                except OSError:
                    continue  # an interface without an IPv4 address
                if socket.inet_ntoa(answer[20:24]) == local:
                    os.environ["GLOO_SOCKET_IFNAME"] = name
                    return
    except (OSError, ValueError):
        return  # IPv6, or a name that is not known yet: gloo has its own ways


def train(torch, settings):
    """Trains, and returns what is wrong, or None."""
    distributed, functional = torch.distributed, torch.nn.functional

    def network(seed):
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(INPUTS, HIDDEN), torch.nn.Tanh(), torch.nn.Linear(HIDDEN, OUTPUTS))

    teacher = network(settings.seed + 1)
    model = torch.nn.parallel.DistributedDataParallel(network(settings.seed))
    optimizer = torch.optim.SGD(model.parameters(), lr=settings.learning_rate, momentum=0.9)
    samples = torch.Generator().manual_seed(settings.seed * 1_000_003 + settings.rank)  # every rank sees other samples
    losses = []
    started = printed = time.monotonic()
    for step in range(settings.steps):
        inputs = torch.randn(BATCH, INPUTS, generator=samples)
        with torch.no_grad():
            targets = teacher(inputs)
        loss = functional.mse_loss(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if time.monotonic() - printed >= 1.0:
            printed = time.monotonic()
            say(f"rank {settings.rank}: step {step + 1} of {settings.steps}, loss {losses[-1]:.5f}")
    seconds = time.monotonic() - started

    # The weights, bit for bit: a digest of each rank's, compared by everybody.
    weights = torch.nn.utils.parameters_to_vector(model.parameters()).detach().contiguous()
    digest = hashlib.sha256(bytes(weights.view(torch.uint8).tolist())).digest()
    mine = torch.tensor(list(digest), dtype=torch.uint8)
    digests = [torch.zeros_like(mine) for _ in range(settings.world_size)]
    distributed.all_gather(digests, mine)
    different = [rank for rank, other in enumerate(digests) if not torch.equal(other, digests[0])]

    tenth = settings.steps // 10
    trend = torch.tensor([sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth], dtype=torch.float64)
    distributed.all_reduce(trend)
    first, last = (trend / settings.world_size).tolist()
    summary = (f"rank={settings.rank} world_size={settings.world_size} steps={settings.steps} loss={first:.5f}->{last:.5f} "
               f"weights={digest.hex()[:16]} steps_per_second={settings.steps / seconds:.1f}")
    if different:
        return f"{summary}: the weights of ranks {', '.join(map(str, different))} differ from those of rank 0"
    if not last < first * 0.9:
        return f"{summary}: the loss did not fall"
    say(f"{summary} ok")
    return None


def main(arguments):
    try:
        settings = parse_settings(arguments)
    except UsageError as error:
        print(f"ddp_train: error: {error}", file=sys.stderr, flush=True)
        return 2
    try:
        import torch
        import torch.distributed
    except (ImportError, OSError, ValueError) as error:  # the latter two: installed without the libraries it was linked with
        print(MISSING.format(python=sys.executable, error=str(error).splitlines()[0]), end="", file=sys.stderr, flush=True)
        return 2
    torch.set_num_threads(1)  # the network is tiny, and ranks often share a host
    choose_interface()
    try:
        torch.distributed.init_process_group("gloo", init_method="env://", timeout=timedelta(seconds=settings.timeout_seconds))
        problem = train(torch, settings)
        torch.distributed.barrier()  # nobody hangs up while another still compares
        torch.distributed.destroy_process_group()
    except (RuntimeError, ValueError, OSError) as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        problem = f"{type(error).__name__}: {first_line}"
    if problem:
        print(f"ddp_train: rank {settings.rank}: error: {problem}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
