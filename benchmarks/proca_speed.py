"""ProCA's loss, prototypes and thresholds: time and memory beside the plain way of the released code, on the same tensors.

    python -m benchmarks.proca_speed [--rounds 5] [--images 1 4] [--pictures 200] [--out benchmarks/results/proca_speed.md]

Loss and update: one step of one domain at GTA5's size, 90x160 features of 2048 channels, 19 classes: prototypes take in the
batch, then the loss (temperature 50, cosines) and its gradient. Both ways in turn, in one process; a row gives medians.
Memory is the largest sum of tensors alive at a time beyond the inputs, from torch's own record of every allocation.
Thresholds: pictures of 512x1024 confidences, both passes of ours; memory of arrays from tracemalloc for the plain way.
The plain way needs 11 GiB for four images and about 4 GiB for 200 pictures; a row that does not fit is left out and says so.
"""

import os
import platform
import statistics
import time
import tracemalloc
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from benchmarks import released_proca as released
from benchmarks.measuring import GIB, MIB, available, command, command_line, hand_over, parsed, peak_bytes, two_ways
from course_lib.losses import prototype_contrast
from course_lib.prototypes import PrototypeBank
from course_lib.pseudo_labels import ClassThresholds

CLASSES, CHANNELS, SIZE, TAU = 19, 2048, (90, 160), 50.0
PICTURE, PROPORTION, CAP = (512, 1024), 0.6, 0.9


# ---- loss and update ------------------------------------------------------------------------------------------------


def ours(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, its gradient, prototypes) of the first step of a bank that has seen nothing."""
    bank = PrototypeBank(CLASSES, CHANNELS)
    bank.update(features, labels, domain="source")
    prototypes = bank.prototypes
    loss = prototype_contrast(features, labels, prototypes, TAU, "cosine")
    return loss.detach(), torch.autograd.grad(loss, features)[0], prototypes


def plain(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same in the plain way."""
    prototypes, _ = released.update(torch.zeros(CLASSES, CHANNELS), torch.zeros(CLASSES), features, labels)
    loss = released.contrast(features, labels, prototypes, TAU)
    return loss.detach(), torch.autograd.grad(loss, features)[0], prototypes


def inputs(images: int, size: tuple[int, int] = SIZE) -> tuple[Tensor, Tensor]:
    """Features (N, 2048, h, w) whose classes differ, and labels (N, h, w)."""
    generator = torch.Generator().manual_seed(images)
    labels = torch.randint(0, CLASSES, (images, *size), generator=generator)
    features = torch.randn(images, CHANNELS, *size, generator=generator)
    features += torch.randn(CLASSES, CHANNELS, generator=generator)[labels].permute(0, 3, 1, 2)
    labels[:, : size[0] // 10] = 255
    return features.relu_().requires_grad_(), labels


def compare_steps(images: int, rounds: int) -> list[str]:
    """The rows for a batch of `images`."""
    product = 4 * images * SIZE[0] * SIZE[1] * CLASSES * CHANNELS
    if available() < 1.4 * product + GIB:
        return [f"| {images} | not run: the plain way needs {1.4 * product / GIB:.1f} GiB | | | | |"]
    return two_ways(images, ours, plain, inputs(images), ("loss", "gradient", "prototypes"), rounds)


# ---- thresholds -----------------------------------------------------------------------------------------------------


def pictures(count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Confidences and predicted classes of one picture after the other; some classes surer than others."""
    for i in range(count):
        generator = torch.Generator().manual_seed(i)
        prediction = torch.randint(0, CLASSES, PICTURE, generator=generator)
        doubt = torch.rand(PICTURE, generator=generator) ** torch.linspace(0.5, 6, CLASSES)[prediction]
        yield 1 - 0.9 * doubt, prediction


def find_ours(count: int) -> tuple[Tensor, float]:
    """Thresholds of `count` pictures in both passes, and the seconds without making the pictures."""
    search, spent = ClassThresholds(CLASSES, PROPORTION, CAP), 0.0
    for end in (search.narrow, search.thresholds):
        for sure, prediction in pictures(count):
            began = time.perf_counter()
            search.add(sure, prediction)
            spent += time.perf_counter() - began
        began = time.perf_counter()
        result = end()
        spent += time.perf_counter() - began
    return result, spent


def find_plain(count: int) -> tuple[Tensor, float, int]:
    """The same in the plain way, and the most bytes of its arrays."""
    tracemalloc.start()
    search, spent = released.Thresholds(CLASSES, PROPORTION, CAP), 0.0
    for sure, prediction in pictures(count):
        arrays = sure.numpy(), prediction.numpy()
        began = time.perf_counter()
        search.add(*arrays)
        spent += time.perf_counter() - began
    began = time.perf_counter()
    result = search.thresholds()
    spent += time.perf_counter() - began
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return torch.tensor(result), spent, peak


def compare_thresholds(count: int, rounds: int) -> list[str]:
    """The rows for a quarter of the pictures and for all of them, so that growth is seen."""
    rows = []
    for n in (count // 4, count):
        if available() < 1.5 * 24 * n * PICTURE[0] * PICTURE[1] + GIB:
            rows.append(f"| {n} | not run: the plain way does not fit into memory | | | |")
            continue
        times = [find_ours(n)[1] for _ in range(rounds)]
        wanted, plain_time, plain_bytes = find_plain(n)
        found, last = find_ours(n)
        if not torch.allclose(found, wanted, rtol=0, atol=1e-5):
            raise SystemExit(f"Thresholds differ by {(found - wanted).abs().max():.1e}: times cannot be compared.")
        time_ours = statistics.median([*times, last])
        making = peak_bytes(lambda: [None for _ in pictures(2)])  # the pictures themselves
        ours_bytes = peak_bytes(lambda n=n: find_ours(n)) - making
        for name, t, m in (("course_lib", time_ours, ours_bytes), ("plain", plain_time, plain_bytes)):
            rows.append(f"| {n} | {name} | {t:,.2f} | {plain_time / t:.1f} x | {m / MIB:,.0f} |")
    return rows


def main() -> None:
    parser = command_line(__doc__, rounds=5)
    parser.add_argument("--images", type=int, nargs="*", default=[1, 4])
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--note", default="", help="a sentence about the machine while it ran, for the file")
    arguments = parsed(parser)
    lines = [
        "# ProCA: time and memory beside the plain way of the released code",
        "",
        f"`{command()}`",
        "",
        f"threads: {arguments.threads} of {os.cpu_count()} cores ({platform.machine()}), float32, torch {torch.__version__}, "
        f"numpy {np.__version__}. {arguments.note}".rstrip(),
        "",
        f"Loss, its gradient and the update of the prototypes: {SIZE[0]}x{SIZE[1]} features of {CHANNELS} channels, {CLASSES} "
        f"classes; medians of {arguments.rounds} rounds;",
        "values equal to 1e-5. The gradient alone, which both ways must make, is "
        f"{4 * SIZE[0] * SIZE[1] * CHANNELS / MIB:.1f} MiB for an image.",
        "",
        "| images | way | ms | faster | extra MiB | share |",
        "|---|---|---|---|---|---|",
    ]
    for images in arguments.images:
        lines += compare_steps(images, arguments.rounds)
    lines += [
        "",
        f"Class-wise thresholds of {PICTURE[0]}x{PICTURE[1]} pictures; ours in two passes; values equal to 1e-5; making them"
        " is not counted.",
        "",
        "| pictures | way | s | faster | MiB |",
        "|---|---|---|---|---|",
        *compare_thresholds(arguments.pictures, max(1, arguments.rounds // 2)),
    ]
    hand_over(lines, arguments.out)


if __name__ == "__main__":
    main()
