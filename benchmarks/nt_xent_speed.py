"""NT-Xent's value and gradient: time and peak memory beside lightly and pytorch-metric-learning, on the same tensors.

    python -m benchmarks.nt_xent_speed [--repeats 5] [--threads 2] [--out benchmarks/results/nt_xent_speed.md]

Repetitions go round: each runs every loss once, so that a busy moment of the machine hits all of them; a row gives the median.
Memory is the largest sum of tensors alive at a time, from torch's own record of every allocation, backward pass included.
"""

import os
import platform
from collections.abc import Callable
from functools import partial
from importlib.metadata import version

import torch
from torch import Tensor

from benchmarks.measuring import GIB, MIB, command, command_line, hand_over, medians, parsed, peak_bytes
from course_lib.losses import nt_xent

Loss = Callable[[Tensor, Tensor], Tensor]
SIZES, WIDTH, TAU, CHUNK = (256, 1024, 4096), 128, 0.5, 256


def value_and_gradient(loss: Loss, z_a: Tensor, z_b: Tensor) -> tuple[float, Tensor]:
    """The loss and its gradient at both views, (2N, d)."""
    z_a, z_b = z_a.detach().requires_grad_(), z_b.detach().requires_grad_()
    value = loss(z_a, z_b)
    return value.item(), torch.cat(torch.autograd.grad(value, (z_a, z_b)))


def contestants() -> tuple[dict[str, Loss], dict[str, Loss]]:
    """Ours and the peers'. SupConLoss with two views is NT-Xent; pytorch-metric-learning's own needs 8 N^3 numbers."""
    try:
        from lightly.loss import NTXentLoss
        from pytorch_metric_learning.losses import SelfSupervisedLoss, SupConLoss
    except ImportError as error:
        raise SystemExit(f"{error}. The peers come with the test extra: pip install -e '.[test]'.") from None
    ours = {
        "nt_xent": lambda z_a, z_b: nt_xent(z_a, z_b, TAU),
        f"nt_xent, chunk={CHUNK}": lambda z_a, z_b: nt_xent(z_a, z_b, TAU, chunk=CHUNK),
    }
    return ours, {
        "lightly NTXentLoss": NTXentLoss(temperature=TAU),
        "pytorch-metric-learning SupConLoss": SelfSupervisedLoss(SupConLoss(temperature=TAU)),
    }


def measure(n: int, repeats: int) -> list[str]:
    """The table's rows for one batch size."""
    z_a, z_b = torch.randn(2, n, WIDTH, generator=torch.Generator().manual_seed(n))
    z_b = z_a + z_b
    ours, peers = contestants()
    losses = ours | peers
    results = {name: value_and_gradient(loss, z_a, z_b) for name, loss in losses.items()}  # warms up, too
    value, gradient = results["nt_xent"]
    for name, (other, slope) in results.items():
        if abs(other - value) > 1e-5 or not torch.allclose(slope, gradient, rtol=0, atol=1e-6):
            raise SystemExit(f"{name} says {other}, nt_xent {value} (N = {n}): not the same loss, times cannot be compared.")

    repeats *= max(SIZES) // n  # short ones more often
    actions = {name: partial(value_and_gradient, loss, z_a, z_b) for name, loss in losses.items()}
    times = dict(zip(losses, medians(actions.values(), repeats), strict=True))
    memory = {name: peak_bytes(action) for name, action in actions.items()}
    fastest = min(peers, key=lambda name: times[name])
    rows = []
    for name in losses:
        time_ratio, memory_ratio, mebibytes = times[name] / times[fastest], memory[name] / memory[fastest], memory[name] / MIB
        rows.append(f"| {n} | {name} | {1e3 * times[name]:.1f} | {time_ratio:.2f} | {mebibytes:.1f} | {memory_ratio:.3f} |")
    gigabytes = 2 * n * 2 * n * (2 * n - 2) * 4 / GIB
    rows.append(f"| {n} | pytorch-metric-learning NTXentLoss | - | - | one matrix of several: {gigabytes:,.1f} GiB | - |")
    return rows


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parsed(parser)
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "lightly", "pytorch-metric-learning"))
    lines = [
        "# NT-Xent: time and memory of value and gradient",
        "",
        f"`{command()}`, threads: {arguments.threads} of {os.cpu_count()} cores ({platform.machine()}), float32,",
        f"d = {WIDTH}, tau = {TAU}; {versions}. Times are medians of {arguments.repeats} rounds at N = {SIZES[-1]} and more",
        "at smaller N, each loss once in a round. Memory is the largest sum of tensors alive at a time, backward pass too.",
        '"of peer" divides by the faster peer of that N. pytorch-metric-learning\'s NTXentLoss was not run: its matrices have',
        "8 N^3 entries. Its SupConLoss is the same number.",
        "",
        "| N | loss | ms | of peer | peak MiB | of peer |",
        "|---|---|---|---|---|---|",
    ]
    for n in SIZES:
        lines += measure(n, arguments.repeats)
    hand_over(lines, arguments.out)


if __name__ == "__main__":
    main()
