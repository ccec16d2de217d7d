"""Training by several processes: join the others, start alike, and average what each of them found in a step.

Started by `torchrun --nproc-per-node R -m course_lib train ...`. torch's DistributedDataParallel expects one backward pass
per forward pass and the same weights in each; an adversarial step has several, of two networks that are frozen in turn.
Here the gradients travel once per step, when all passes are done: slower by the overlap that is lost, and always right.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from course_lib import ranks


@contextmanager
def join(device: torch.device | str = "cpu") -> Iterator[None]:
    """Inside, `course_lib.ranks` knows the other processes, if torchrun started several; alone, nothing happens.

    Tensors on CUDA travel by NCCL, all others by gloo. After an error a process ends without a message to the others:
    their connection closes, and torchrun ends them.
    """
    job = ranks.launched()
    if job.count == 1:
        yield
        return
    if (kind := torch.device(device).type) not in ("cpu", "cuda"):
        raise ValueError(f"Several processes run on cpu or cuda, not on {kind}. Choose --device cpu, or start one process.")
    port = os.environ.get("MASTER_PORT", "")
    if not os.environ.get("MASTER_ADDR") or not (port.isdecimal() and 0 < int(port) < 2**16):
        raise ValueError(
            f"WORLD_SIZE is {job.count}, MASTER_ADDR {os.environ.get('MASTER_ADDR', '')[:80]!r} and MASTER_PORT {port[:20]!r}; "
            "wanted the machine and the port (1 to 65535) of process 0. Start the processes with torchrun, which sets both."
        )
    if kind == "cuda":
        torch.cuda.set_device(device_of_rank(device))
    dist.init_process_group("cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo")
    yield
    ranks.barrier()  # no process leaves while process 0 is writing
    dist.destroy_process_group()


def device_of_rank(device: torch.device | str) -> torch.device:
    """The device of this process: on CUDA each process of a machine takes the GPU of its own number."""
    device, (_, count, local) = torch.device(device), ranks.launched()
    if device.type != "cuda" or count == 1:
        return device
    if device.index is not None:
        raise ValueError(f"Got --device {device} and several processes: each takes a GPU of its own. Give --device cuda.")
    if local >= torch.cuda.device_count():
        raise ValueError(
            f"Process {local} of this machine finds {torch.cuda.device_count()} GPUs; each wants its own. "
            "Give torchrun --nproc-per-node at most that number."
        )
    return torch.device("cuda", local)


def broadcast_module(module: nn.Module) -> None:
    """Give every process the weights and buffers of process 0."""
    if ranks.count() > 1:
        state = {name: value.cpu() for name, value in module.state_dict().items()} if ranks.is_main() else None
        module.load_state_dict(ranks.agree(state))


def average_gradients(
    optimisers: Iterable[torch.optim.Optimizer], flag: bool = False, buffers: Iterable[Tensor] = ()
) -> bool:
    """Replace every gradient by its mean over the processes, once per step; returns whether any process raised `flag`.

        g = 1/R sum_r g_r,   g_r = 0 where process r has none; where no process has one there is none still

    `buffers` (`running_statistics`) are averaged with them. All travel in one message.
    """
    if ranks.count() == 1:
        return flag
    weights = learning_weights(optimisers)
    if not weights:
        return ranks.any_of(flag)
    buffers = list(buffers)
    has = weights[0].new_tensor([p.grad is not None for p in weights] + [flag])
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in weights] + buffers + [has]
    message = ranks.total(torch.cat([part.detach().reshape(-1) for part in parts]))
    *means, has = message.split([part.numel() for part in parts])
    *has, raised = (has > 0).tolist()
    for p, mean, there in zip(weights, means, has):
        if there:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            p.grad.copy_(mean.view_as(p) / ranks.count())
    with torch.no_grad():
        for buffer, mean in zip(buffers, means[len(weights) :]):
            buffer.copy_(mean.view_as(buffer) / ranks.count())
    return raised


def learning_weights(optimisers: Iterable[torch.optim.Optimizer]) -> list[Tensor]:
    """What the optimisers move, each weight once."""
    groups = (group for optimiser in optimisers for group in optimiser.param_groups)
    return list({id(p): p for group in groups for p in group["params"] if p.requires_grad}.values())


def running_statistics(module: nn.Module) -> list[Tensor]:
    """The running means and variances of batch normalisation: averaged every step, all processes save and score the same.

    Both follow the batches linearly, so their means over the processes are what one process with all batches would hold
    (for the variance: without the spread of the batches' means; bn="sync" includes it).
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    return [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var)]
