"""DepthMix beside a plain transcription: masks, mixed pictures, labels and weight of one step, on the same tensors.

    python -m benchmarks.depthmix_speed [--rounds 9] [--pictures 2] [--size 512x512] [--classes 19] [--threads 1] [--device cpu]

Ours mixes labels and which of them are sure (N, H, W), because a mask of 0 and 1 lets the largest probability be taken before.
The plain way does as the paper writes it, pair by pair: disparities to 0..1, the mask, pictures and probabilities of all C
classes times the mask, their sum, then the largest class, its probability, and the share above the threshold. Both end with the
same pictures, labels and weight, which is checked first. Both ways in turn, in one process; medians.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.step_speed import wait
from course_lib.mixing import depth_mask, following, mix
from course_lib.pseudo_labels.thresholds import confidence
from course_lib.pseudo_labels.weights import batch_weight
from course_lib.typed import AT_LEAST_1, in_range

TIE, SURE = 0.03, 0.968


def made(pictures: int, size: tuple[int, int], classes: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures (N, 3, H, W), logits (N, C, H, W) of which about half are sure, disparities (N, H, W) with unknown pixels."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(pictures, 3, *size, generator=generator)
    logits = 4 * torch.randn(pictures, classes, *size, generator=generator)
    D, unknown = torch.rand(2, pictures, *size, generator=generator)
    return tuple(t.to(device) for t in (x, logits, torch.where(unknown < 0.05, -1.0, D)))


def ours(x: Tensor, logits: Tensor, D: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As in `methods.segsdf`: x_m, y_m, q_m."""
    p, y = confidence(logits)
    M = depth_mask(following(D), D, TIE)
    sure = mix(M, following((p >= SURE).float()), (p >= SURE).float())
    return mix(M, following(x), x), mix(M, following(y), y), batch_weight(sure, 1.0)


def plain(x: Tensor, logits: Tensor, D: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Picture by picture, with probabilities."""
    N, p = len(x), logits.softmax(dim=1)
    shares = []
    for d in D:
        known = d[d >= 0]
        shares.append(torch.where(d >= 0, (d - known.min()) / (known.max() - known.min()), 0))
    images, labels, sure = [], [], []
    for n in range(N):
        other = (n + 1) % N
        M = (shares[other] >= shares[n] - TIE).float()
        images.append(M * x[other] + (1 - M) * x[n])
        soft = M * p[other] + (1 - M) * p[n]
        largest, label = soft.max(dim=0)
        labels.append(label)
        sure.append(largest >= SURE)
    sure = torch.stack(sure)
    return torch.stack(images), torch.stack(labels), sure.float().mean() * torch.ones_like(D)


def agree(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> bool:
    """Pictures and labels bit for bit; the weight is a share of the same count."""
    return torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) and bool(((a[2] - b[2]).abs() <= 1e-6).all())


def measured(rounds: int, inputs: tuple[Tensor, ...], device: torch.device) -> dict[str, float]:
    """Median seconds of each way."""
    seconds: dict[str, list[float]] = {"ours": [], "plain": []}
    for k in range(rounds + 1):  # the first is not counted
        for name, way in (("ours", ours), ("plain", plain)):
            wait(device)
            began = time.perf_counter()
            way(*inputs)
            wait(device)
            if k:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(each) for name, each in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--pictures", type=int, default=2)
    parser.add_argument("--size", default="512x512", help="WIDTHxHEIGHT")
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    in_range(given, rounds=AT_LEAST_1, pictures=(2, 10**4), classes=AT_LEAST_1, threads=AT_LEAST_1)
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    width, height = map(int, given.size.split("x"))
    inputs = made(given.pictures, (height, width), given.classes, device)
    if not agree(ours(*inputs), plain(*inputs)):
        raise SystemExit("The two ways disagree.")
    found = measured(given.rounds, inputs, device)
    text = (
        "| pictures | classes | plain, ms | ours, ms | times as fast |\n|---|---|---|---|---|\n"
        f"| {given.pictures} of {given.size} | {given.classes} | {1e3 * found['plain']:.1f} | {1e3 * found['ours']:.1f} "
        f"| {found['plain'] / found['ours']:.2f} |\n"
    )
    print(text)
    if given.out is not None:
        given.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
