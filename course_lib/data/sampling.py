"""The order in which pictures are drawn: endless, decided by a seed, from any position on.

A draw is (index, draw_seed): which picture, and the seed of its augmentation. The k-th draw depends on the seed and on
k alone, so a run that is resumed at draw k goes on as if it had never stopped. A draw of `RareClassSampler` has a third
number, the class that the crop should show.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import islice

import numpy as np
import torch
from torch.utils.data import Sampler

from course_lib.typed import COUNT, TEMPERATURE, in_range

Draw = tuple[int, int] | tuple[int, int, int]  # the third: a class that the crop should show


def mixed_seed(seed: int, *numbers: int) -> int:
    """A seed in 0..2^63-1 that tells (seed, numbers) from its neighbours: splitmix64's finaliser (Steele et al. 2014).

    >>> mixed_seed(0, 1) == mixed_seed(0, 1), mixed_seed(0, 1) == mixed_seed(1, 0)
    (True, False)
    """
    mask = 2**64 - 1
    z = seed & mask
    for number in (0, *numbers):
        z = (z + 0x9E3779B97F4A7C15 + number * 0xD1342543DE82EF95) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        z ^= z >> 31
    return z >> 1


class SeedStream(IntEnum):
    """What is drawn with a seed: the first number of `mixed_seed`, so that nothing else is drawn from the same numbers."""

    PASS = 1  # the order of a pass over the pictures
    DRAW = 2  # the augmentation of a draw
    CLASSES = 3  # the classes of `ClassBalancedSampler`
    VIEWS = 4  # of SimCLR
    RARE = 5  # the classes of `RareClassSampler`
    MIXING = 6  # masks and colours of DACS
    TERMS = 7  # `Step.numbers`
    WINDOWS = 8  # of SePiCo
    LABELLED = 9  # the order of the few labelled pictures beside a source
    DRAWN = 10  # the branches of RIST


class EndlessSampler(Sampler[Draw]):
    """Every picture once per pass, in an order reshuffled every pass, for ever.

    `start` draws count as done; `position` is the number of draws so far. (A loader with workers draws ahead of what
    the training has seen: count batches to know where to resume.)

    >>> draws = iter(EndlessSampler(3, seed=0))
    >>> sorted(next(draws)[0] for _ in range(3))
    [0, 1, 2]
    """

    def __init__(self, length: int, seed: int, start: int = 0) -> None:
        if length < 1:
            raise ValueError(f"Got {length} pictures to draw from, wanted at least 1. Check the path and the split.")
        self.length, self.seed, self.position = length, seed, _checked(start)

    def __iter__(self) -> Iterator[Draw]:
        while True:
            turn, first = divmod(self.position, self.length)
            generator = torch.Generator().manual_seed(mixed_seed(self.seed, SeedStream.PASS, turn))
            for index in torch.randperm(self.length, generator=generator)[first:].tolist():
                draw = index, mixed_seed(self.seed, SeedStream.DRAW, self.position)
                self.position += 1
                yield draw


class ClassBalancedSampler(Sampler[Draw]):
    """Draw a class first, rare ones more often, then the next picture that contains it (FADA, used by ProCA).

    Within a round of 3000 draws, n_c pictures drawn so far contain class c (a picture counts for every class in it):

        P(c) ~ 1 / ln(1.01 + n_c / sum_k n_k)

    then the next file of c's list, which is reshuffled when it is used up. Classes that no file contains are left out.
    Differences from the released list builder: a list starts again at its first file, not at its second; the first pass
    is shuffled too (there, the loader shuffled the draws afterwards).
    """

    ROUND = 3000  # draws after which n_c starts again from 0 (released code)

    def __init__(self, classes_of_file: Sequence[Sequence[int]], seed: int, start: int = 0) -> None:
        """`classes_of_file[i]`: the train ids that occur in file i, as `numpy.flatnonzero(dataset.class_counts[i])`."""
        self.classes_of_file = [[int(c) for c in classes] for classes in classes_of_file]
        self.seed, self.position = seed, _checked(start)
        if not any(self.classes_of_file):
            raise ValueError(
                f"None of the {len(self.classes_of_file)} files contains a class, so no class can be balanced. "
                "Check the label space, or use sampling='uniform'."
            )

    def __iter__(self) -> Iterator[Draw]:
        for k, index in enumerate(self._indices()):
            if k == self.position:  # what was drawn before is drawn again, and not read
                self.position += 1
                yield index, mixed_seed(self.seed, SeedStream.DRAW, k)

    def _indices(self) -> Iterator[int]:
        rng = random.Random(mixed_seed(self.seed, SeedStream.CLASSES))
        files: dict[int, list[int]] = {}
        for index, classes in enumerate(self.classes_of_file):
            for c in classes:
                files.setdefault(c, []).append(index)
        present = sorted(files)
        queue: dict[int, list[int]] = {c: [] for c in present}
        while True:
            n = dict.fromkeys(present, 0)
            for _ in range(self.ROUND):
                total = max(1, sum(n.values()))                                      # 0 / 0, as a round starts, is 0
                c = rng.choices(present, [1 / math.log(1.01 + n[c] / total) for c in present])[0]
                if not queue[c]:
                    queue[c] = rng.sample(files[c], len(files[c]))                   # used up: shuffle, all of them
                index = queue[c].pop()
                for k in self.classes_of_file[index]:
                    n[k] += 1
                yield index


@dataclass(frozen=True, kw_only=True)
class RareClassSettings:
    """Of rare class sampling. Pixels are those of the label file for a picture, of the crop for a crop."""

    rare_temperature: float = 0.01  # [code] DAFormer: T; classes above 5 % of the pixels are then hardly ever drawn
    rare_pixels: int = 3000  # [code] DAFormer: a picture has more of the class than this
    rare_crop_pixels: int = 1500  # [code] DAFormer, crops of 512x512: a crop should have more than this

    def __post_init__(self) -> None:
        in_range(self, rare_temperature=TEMPERATURE, rare_pixels=COUNT, rare_crop_pixels=COUNT)


class RareClassSampler(Sampler[Draw]):
    """Draw a class, rare ones more often, then a picture that has enough pixels of it (DAFormer's rare class sampling).

        f_c  = pixels of class c / pixels of all classes
        P(c) = exp((1 - f_c) / T) / sum_k exp((1 - f_k) / T)

    then one of the pictures with more than `rare_pixels` pixels of c, all alike. Classes that no picture has so much of are
    left out. A draw is (index, draw_seed, c): the crop is drawn again until it shows c (`transforms.random_crop`).

    Source: DAFormer (CVPR 2022), eq. 9 and 10.

    >>> counts = np.array([[90, 0], [80, 30]])
    >>> next(iter(RareClassSampler(counts, seed=0, settings=RareClassSettings(rare_pixels=20))))[::2]
    (1, 1)
    """

    def __init__(
        self, counts: np.ndarray, seed: int, start: int = 0, settings: RareClassSettings | None = None
    ) -> None:
        """`counts` (F, C): the pixels of each class in each file, as `dataset.class_counts`."""
        settings = settings or RareClassSettings()
        self.seed, self.position = seed, _checked(start)
        self.files = {c: np.flatnonzero(n > settings.rare_pixels).tolist() for c, n in enumerate(counts.T)}
        self.classes = [c for c, files in self.files.items() if files]
        if not self.classes:
            raise ValueError(
                f"None of the {len(counts)} files has more than {settings.rare_pixels:,} pixels of a class. Lower rare_pixels, "
                "or use sampling='uniform'."
            )
        f = counts.sum(axis=0)[self.classes] / max(1, counts.sum())
        self.probabilities = torch.softmax(torch.from_numpy((1 - f) / settings.rare_temperature), dim=0).tolist()

    def __iter__(self) -> Iterator[Draw]:
        while True:
            rng = random.Random(mixed_seed(self.seed, SeedStream.RARE, self.position))
            c = rng.choices(self.classes, self.probabilities)[0]
            draw = rng.choice(self.files[c]), mixed_seed(self.seed, SeedStream.DRAW, self.position), c
            self.position += 1
            yield draw


class PartialBatches(Sampler[list[Draw]]):
    """Batches of one process: batch k is the draws k B .. (k+1) B - 1 of `draws`; process r of R takes the r-th B/R of them.

    All processes go through the same draws, so together they load what one process would.

    >>> [next(iter(PartialBatches(range(8), batch_size=4, rank=r, ranks=2))) for r in (0, 1)]
    [[0, 1], [2, 3]]
    """

    def __init__(self, draws: Iterable[Draw], batch_size: int, rank: int = 0, ranks: int = 1) -> None:
        self.draws, self.batch_size, self.part = draws, batch_size, share(batch_size, rank, ranks)

    def __iter__(self) -> Iterator[list[Draw]]:
        draws = iter(self.draws)
        while len(batch := list(islice(draws, self.batch_size))) == self.batch_size:
            yield batch[self.part]


def check_batch(batch_size: int, rank: int, ranks: int) -> None:
    """Raise ValueError for a batch without pictures, or a process that is not one of 0 .. ranks-1."""
    if batch_size < 1:
        raise ValueError(f"Got batch_size={batch_size}; wanted at least 1 picture.")
    if not 0 <= rank < ranks:
        raise ValueError(f"Got rank={rank} of ranks={ranks}; wanted 0 to ranks - 1.")


def share(batch_size: int, rank: int, ranks: int) -> slice:
    """Which pictures of a batch are process `rank`'s. Raises ValueError for a batch that does not divide among them.

    >>> share(8, rank=1, ranks=2)
    slice(4, 8, None)
    """
    check_batch(batch_size, rank, ranks)
    if batch_size % ranks:
        raise ValueError(
            f"batch_size={batch_size} does not divide among {ranks} processes: it counts the pictures of all of them. "
            f"Choose a multiple of {ranks}, or another number of processes."
        )
    return slice(rank * batch_size // ranks, (rank + 1) * batch_size // ranks)


def _checked(start: int) -> int:
    if start < 0:
        raise ValueError(f"Got start={start}, wanted the number of draws so far, 0 or more.")
    return start
