"""Batches: endless ones for training, each picture once for testing.

Letters: N pictures in a batch, H, W image size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader

from course_lib.data.dataset import SegmentationDataset
from course_lib.data.processes import cores, refuse_unguarded_script
from course_lib.data.sampling import (
    ClassBalancedSampler,
    EndlessSampler,
    PartialBatches,
    RareClassSampler,
    RareClassSettings,
    check_batch,
)
from course_lib.data.types import Batch, ExtendedSample, Sample, Unfinished, UnfinishedBatch


def train_loader(
    dataset: SegmentationDataset,
    batch_size: int,
    seed: int,
    start: int = 0,
    workers: int = 0,
    sampling: Literal["uniform", "class-balanced", "rare-class"] = "uniform",
    multiprocessing_context: str | None = None,
    rank: int = 0,
    ranks: int = 1,
    rare: RareClassSettings | None = None,
) -> Iterable[Batch | UnfinishedBatch]:
    """Endless full batches in an order that `seed` decides, from batch number `start` on.

    The same batches come whatever the number of workers, and a loader with start=k continues one that has given k.
    torch's global generator is left alone. Two loaders of one run (source, target) want different seeds.
    `multiprocessing_context`: how workers start ("fork", "spawn", "forkserver"; None: as the platform does).
    Of `ranks` processes each loads its part of the same batches, process `rank` the rank-th: `batch_size` and `start`
    count batches of all processes together. `rare`: for sampling="rare-class", whose crops take `rare_crop_pixels` from the
    transform (`train_transform(shown_pixels=...)`).
    """
    if sampling == "uniform":
        sampler = EndlessSampler(len(dataset), seed, start * batch_size)
    elif sampling == "class-balanced":
        sampler = ClassBalancedSampler([np.flatnonzero(n) for n in dataset.class_counts], seed, start * batch_size)
    elif sampling == "rare-class":
        sampler = RareClassSampler(dataset.class_counts, seed, start * batch_size, rare)
    else:
        raise ValueError(f"Got sampling={sampling!r}, wanted 'uniform', 'class-balanced' or 'rare-class'.")
    return _loader(dataset, workers, multiprocessing_context, PartialBatches(sampler, batch_size, rank, ranks))


def test_loader(
    dataset: SegmentationDataset, batch_size: int = 1, workers: int = 0, rank: int = 0, ranks: int = 1
) -> DataLoader[Batch]:
    """Every picture once, in the data set's order; the last batch may be smaller.

    Of `ranks` processes each takes its own: process `rank` pictures rank, rank + ranks, rank + 2 ranks, ...
    """
    check_batch(batch_size, rank, ranks)
    order = range(rank, len(dataset), ranks)
    return _loader(dataset, workers, None, BatchSampler(order, batch_size, drop_last=False))


test_loader.__test__ = False  # a loader for tests, not a test


def collate(samples: Sequence[Sample | ExtendedSample | Unfinished]) -> Batch | UnfinishedBatch:
    """Stack samples to a batch; they must be of one size. Of unfinished samples it is one that `to(device)` finishes."""
    for what in ("image", "label"):
        first = getattr(samples[0], what).shape[-2:]
        for sample in samples:
            if (size := getattr(sample, what).shape[-2:]) != first:
                raise ValueError(
                    f"A batch wants {what}s of one size, but {samples[0].name!r} is {first[1]}x{first[0]} and "
                    f"{sample.name!r} {size[1]}x{size[0]}. Give the transform a size or a crop, or use batch_size=1."
                )
    image, label = (torch.stack([getattr(s, what) for s in samples]) for what in ("image", "label"))
    names = [s.name for s in samples]

    def stacked(what: str) -> torch.Tensor | None:
        return torch.stack([getattr(s, what) for s in samples]) if getattr(samples[0], what, None) is not None else None

    if isinstance(samples[0], Unfinished):
        plain = None if samples[0].plain is None else [s.plain for s in samples]
        finish = [s.finish for s in samples]
        return UnfinishedBatch(image, label, names, finish, plain, stacked("valid"), stacked("disparity"))
    return Batch(image, label, names, stacked("plain"), stacked("valid"), stacked("disparity"))


def _loader(dataset: SegmentationDataset, workers: int, context: str | None, batches: Iterable) -> DataLoader:
    if workers < 0:
        raise ValueError(f"Got workers={workers}; wanted 0 (load here) or more.")
    workers = min(workers, cores(), len(dataset))  # more would wait for one another, or for nothing
    if workers:
        refuse_unguarded_script(context)
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),          # the copy to the GPU then runs beside the computation
        persistent_workers=workers > 0,
        multiprocessing_context=context if workers else None,
        generator=torch.Generator().manual_seed(0),    # only feeds workers' own seeds, which nothing here draws from
    )
