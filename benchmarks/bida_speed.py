"""BiDA's contrast: time and memory beside the plain way of the released code, on the same tensors.

    python -m benchmarks.bida_speed [--rounds 5] [--pairs 1 2] [--out benchmarks/results/bida_speed.md]

Forward and backward pass of both directions at the released size: 76x92x92 features (four branches of 19 logits), labels
730x730. Both ways in turn, in one process; a row gives medians. Memory is the largest sum of tensors alive at a time beyond
the inputs, from torch's own record of every allocation.
"""

import os
import platform

import torch
from torch import Tensor

from benchmarks import released_bida as released
from benchmarks.measuring import command, command_line, hand_over, parsed, two_ways
from course_lib.losses import bidirectional_contrast

CLASSES, CHANNELS, GRID, PICTURE = 19, 76, (92, 92), (730, 730)


def pair(
    pairs: int, grid: tuple[int, int] = GRID, picture: tuple[int, int] = PICTURE
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features and labels of both domains: patches of classes, a part of the target's without label."""
    generator = torch.Generator().manual_seed(pairs)
    sides = []
    for share in (0.05, 0.6):
        patches = torch.randint(0, CLASSES, (pairs, 1, 23, 23), generator=generator).float()
        label = torch.nn.functional.interpolate(patches, size=picture, mode="nearest")[:, 0].long()
        label[torch.rand(label.shape, generator=generator) < share] = 255
        sides += [torch.randn(pairs, CHANNELS, *grid, generator=generator).requires_grad_(), label]
    return tuple(sides)


def ours(f_s: Tensor, y_s: Tensor, f_t: Tensor, y_t: Tensor) -> tuple[Tensor, ...]:
    """Both losses, and the gradient of their sum to both features."""
    forward, backward = bidirectional_contrast(f_s, y_s, f_t, y_t, CLASSES, temperature=0.1, pairwise=True)
    return forward.detach(), backward.detach(), *torch.autograd.grad(forward + backward, (f_s, f_t))


def plain(f_s: Tensor, y_s: Tensor, f_t: Tensor, y_t: Tensor) -> tuple[Tensor, ...]:
    """The same in the plain way."""
    both = [released.contrast(*one, CLASSES) for one in zip(f_s, y_s, f_t, y_t, strict=True)]
    forward, backward = (torch.stack(part).mean() for part in zip(*both, strict=True))
    return forward.detach(), backward.detach(), *torch.autograd.grad(forward + backward, (f_s, f_t))


def main() -> None:
    parser = command_line(__doc__, rounds=5)
    parser.add_argument("--pairs", type=int, nargs="*", default=[1, 2])
    arguments = parsed(parser)
    lines = [
        "# BiDA: time and memory of forward and backward contrast beside the plain way of the released code",
        "",
        f"`{command()}`",
        "",
        f"threads: {arguments.threads} of {os.cpu_count()} cores ({platform.machine()}), float32, torch {torch.__version__}.",
        "",
        f"Both losses and their gradients: {CHANNELS}x{GRID[0]}x{GRID[1]} features, {PICTURE[0]}x{PICTURE[1]} labels, "
        f"{CLASSES} classes; medians of {arguments.rounds} rounds;",
        "values and gradients equal to 1e-5.",
        "",
        "| pairs | way | ms | faster | extra MiB | share |",
        "|---|---|---|---|---|---|",
    ]
    for pairs in arguments.pairs:
        names = ("L_FC", "L_BC", "gradient to f_S", "gradient to f_T")
        lines += two_ways(pairs, ours, plain, pair(pairs), names, arguments.rounds)
    hand_over(lines, arguments.out)


if __name__ == "__main__":
    main()
