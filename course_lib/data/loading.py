"""Batches: endless ones for training, each picture once for testing.

Letters: N pictures in a batch, H, W image size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import torch
from torch.utils.data import DataLoader

from course_lib.data.dataset import SegmentationDataset
from course_lib.data.sampling import ClassBalancedSampler, EndlessSampler
from course_lib.data.types import Batch, Sample


def train_loader(
    dataset: SegmentationDataset,
    batch_size: int,
    seed: int,
    start: int = 0,
    workers: int = 0,
    sampling: Literal["uniform", "class-balanced"] = "uniform",
    multiprocessing_context: str | None = None,
) -> Iterable[Batch]:
    """Endless full batches in an order that `seed` decides, from batch number `start` on.

    The same batches come whatever the number of workers, and a loader with start=k continues one that has given k.
    torch's global generator is left alone. Two loaders of one run (source, target) want different seeds.
    `multiprocessing_context`: how workers start ("fork", "spawn", "forkserver"; None: as the platform does).
    """
    if sampling == "uniform":
        sampler = EndlessSampler(len(dataset), seed, start * batch_size)
    elif sampling == "class-balanced":
        sampler = ClassBalancedSampler([np.flatnonzero(n) for n in dataset.class_counts], seed, start * batch_size)
    else:
        raise ValueError(f"Got sampling={sampling!r}, wanted 'uniform' or 'class-balanced'.")
    return _loader(dataset, batch_size, workers, multiprocessing_context, sampler=sampler, drop_last=True)


def test_loader(dataset: SegmentationDataset, batch_size: int = 1, workers: int = 0) -> DataLoader[Batch]:
    """Every picture once, in the data set's order; the last batch may be smaller."""
    return _loader(dataset, batch_size, workers, None, shuffle=False)


test_loader.__test__ = False  # a loader for tests, not a test


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples to a batch; they must be of one size."""
    for what in ("image", "label"):
        first = getattr(samples[0], what).shape[-2:]
        for sample in samples:
            if (size := getattr(sample, what).shape[-2:]) != first:
                raise ValueError(
                    f"A batch wants {what}s of one size, but {samples[0].name!r} is {first[1]}x{first[0]} and "
                    f"{sample.name!r} {size[1]}x{size[0]}. Give the transform a size or a crop, or use batch_size=1."
                )
    return Batch(
        torch.stack([s.image for s in samples]), torch.stack([s.label for s in samples]), [s.name for s in samples]
    )


def _loader(dataset: SegmentationDataset, batch_size: int, workers: int, context: str | None, **order) -> DataLoader:
    if batch_size < 1 or workers < 0:
        raise ValueError(f"Got batch_size={batch_size}, workers={workers}; wanted at least 1 picture and 0 workers.")
    return DataLoader(
        dataset,
        batch_size,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),          # the copy to the GPU then runs beside the computation
        persistent_workers=workers > 0,
        multiprocessing_context=context if workers else None,
        generator=torch.Generator().manual_seed(0),    # only feeds workers' own seeds, which nothing here draws from
        **order,
    )
