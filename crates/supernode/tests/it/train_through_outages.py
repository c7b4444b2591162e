"""Data-parallel training for tests that break links meanwhile. Before some steps it waits until a file appears, so that a test knows what it
breaks, and says what was resumed so far. At the end: a digest of the weights."""

import hashlib
import os
import time

import supernode_collectives.torch  # noqa: F401, registers the backend
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

STEPS, BATCH, GATES = 80, 8, (5, 20, 30, 40, 50, 65)


def resumed():
    return dist.distributed_c10d._get_default_group()._group.resumed()


def main():
    torch.set_num_threads(1)
    dist.init_process_group("supernode")
    rank = dist.get_rank()
    torch.manual_seed(7)
    layers = [torch.nn.Linear(64, 512), torch.nn.Tanh(), torch.nn.Linear(512, 512), torch.nn.Tanh(), torch.nn.Linear(512, 8)]
    network = DistributedDataParallel(torch.nn.Sequential(*layers))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for step in range(STEPS):
        if step in GATES:
            gate = GATES.index(step)
            print(f"rank={rank} gate={gate} resumed={resumed()}", flush=True)
            while not os.path.exists(f"{os.environ['GATES']}/{gate}"):
                time.sleep(0.01)
        generator = torch.Generator().manual_seed(1000 * step + rank)
        source = torch.randn(BATCH, 64, generator=generator)
        target = torch.randn(BATCH, 8, generator=generator)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(network(source), target).backward()
        optimizer.step()
        time.sleep(0.05)
    weights = b"".join(parameter.detach().numpy().tobytes() for parameter in network.parameters())
    print(f"rank={rank} weights={hashlib.sha256(weights).hexdigest()} resumed={resumed()}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
