"""Data-parallel training over the backend "supernode", compared with the same training in one process.

    supernode run --super-node train --nodes 2 --env PYTHONPATH=... -- python3 examples/ddp_supernode.py
"""

import os

import supernode_collectives.torch  # noqa: F401, registers the backend
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

STEPS, BATCH = 5, 8


def model():
    torch.manual_seed(7)
    return torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.Tanh(), torch.nn.Linear(64, 8))


def batch(step, rank):
    generator = torch.Generator().manual_seed(1000 * step + rank)
    return torch.randn(BATCH, 32, generator=generator), torch.randn(BATCH, 8, generator=generator)


def check_operators(rank, world):
    tensor = torch.full((5,), float(rank + 1))
    dist.all_reduce(tensor)
    assert tensor.tolist() == [world * (world + 1) / 2] * 5
    dist.broadcast(tensor := torch.tensor([rank]), src=world - 1)
    assert tensor.item() == world - 1
    parts = [torch.zeros(3, dtype=torch.int64) for _ in range(world)]
    dist.all_gather(parts, torch.full((3,), rank))
    assert [part[0].item() for part in parts] == list(range(world))
    dist.reduce(tensor := torch.tensor([1.0, 2.0]), dst=0, op=dist.ReduceOp.MAX)
    output = torch.zeros(2)
    dist.reduce_scatter(output, [torch.full((2,), float(index)) for index in range(world)])
    assert output.tolist() == [float(world * rank)] * 2
    if rank == 0:
        dist.send(torch.arange(4.0), dst=1)
    elif rank == 1:
        dist.recv(received := torch.zeros(4), src=0)
        assert received.tolist() == [0.0, 1.0, 2.0, 3.0]
    dist.barrier()


def main():
    dist.init_process_group("supernode")
    rank, world = dist.get_rank(), dist.get_world_size()
    check_operators(rank, world)
    network = DistributedDataParallel(model())
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for step in range(STEPS):
        source, target = batch(step, rank)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(network(source), target).backward()
        optimizer.step()
    weights = torch.cat([parameter.detach().reshape(-1) for parameter in network.parameters()])
    everywhere = [torch.zeros_like(weights) for _ in range(world)]
    dist.all_gather(everywhere, weights)
    assert all(torch.equal(weights, other) for other in everywhere), "ranks have different weights"
    alone, optimizer = model(), None
    optimizer = torch.optim.SGD(alone.parameters(), lr=0.1)
    for step in range(STEPS):
        optimizer.zero_grad()
        for other in range(world):
            source, target = batch(step, other)
            (torch.nn.functional.mse_loss(alone(source), target) / world).backward()
        optimizer.step()
    expected = torch.cat([parameter.detach().reshape(-1) for parameter in alone.parameters()])
    assert torch.allclose(weights, expected, atol=1e-6), "not the weights of one process"
    print(f"rank={rank} world_size={world} weights={weights.double().sum().item():.9f} ok", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
