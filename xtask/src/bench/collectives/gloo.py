"""All-reduce of floats in place with Gloo, measured as `supernode collective bench` does: a barrier before each run, the time of a
run is that of the slowest rank, a tenth as many runs before do not count.

Arguments: ranks, a free port, `BYTES:RUNS` each. Prints `BYTES MEDIAN_MICROSECONDS`.
"""

import subprocess
import sys
import time

import torch
import torch.distributed as dist


def measure(size, runs):
    buffer = torch.zeros(size // 4)
    times = []
    before = (runs + 9) // 10
    for run in range(before + runs):
        dist.barrier()
        begun = time.perf_counter()
        dist.all_reduce(buffer)
        if run >= before:
            times.append(time.perf_counter() - begun)
    slowest = torch.tensor(times, dtype=torch.float64)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    return slowest.sort().values[(runs - 1) // 2].item() * 1e6


def rank(number, ranks, port, sizes):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=number, world_size=ranks)
    for text in sizes:
        size, runs = (int(part) for part in text.split(":"))
        median = measure(size, runs)
        if number == 0:
            print(size, f"{median:.3f}", flush=True)
    dist.destroy_process_group()


def main():
    if sys.argv[1] == "rank":
        rank(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5:])
        return
    ranks, port, sizes = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    command = [sys.executable, __file__, "rank"]
    children = [subprocess.Popen([*command, str(number), str(ranks), port, *sizes]) for number in range(ranks)]
    sys.exit(max(abs(child.wait()) for child in children))


main()
