"""Samples and batches.

Letters: N pictures in a batch, H, W image size, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from course_lib.devices import copies_may_run_ahead, image_layout


class Sample(NamedTuple):
    """One picture. As read: Image (3, H, W) uint8 RGB, Mask (H, W) uint8 train ids; transformed: float32 and int64."""

    image: Tensor
    label: Tensor
    name: str


class ExtendedSample(NamedTuple):
    """A Sample with what else a method reads of it, None where it does not: see `Batch`, of which these are one picture."""

    image: Tensor
    label: Tensor
    name: str
    plain: Tensor | None = None
    valid: Tensor | None = None
    disparity: Tensor | None = None


class Batch(NamedTuple):
    """N pictures: image (N, 3, H, W) float32 normalised, label (N, H, W) int64 train ids (255 = ignore), N names.

    plain: the same pictures, resized, cropped and flipped alike, before their colours were changed; None where it is not read.
    valid: (N, H, W) bool, pixels outside the margins of the whole picture, likewise; None: all.
    disparity: (N, H, W) float32, how near what a pixel shows is (`data.disparity`: 0 to 1, -1 where unknown), resized, cropped
        and flipped with the picture; None where it is not read.
    """

    image: Tensor
    label: Tensor
    name: list[str]
    plain: Tensor | None = None
    valid: Tensor | None = None
    disparity: Tensor | None = None

    def to(self, device: torch.device | str, channels_last: bool = False) -> Batch:
        """The same batch on `device`; `channels_last` orders the image's memory as fast convolutions like it (not on MPS).

        The copy does not wait for a GPU when the batch lies in pinned memory.
        """
        ahead = copies_may_run_ahead(device)
        images = [
            x if x is None else x.to(device, non_blocking=ahead, memory_format=image_layout(device, channels_last))
            for x in (self.image, self.plain)
        ]
        label, *maps = (x if x is None else x.to(device, non_blocking=ahead) for x in (self.label, self.valid, self.disparity))
        return Batch(images[0], label, self.name, images[1], *maps)


class Unfinished(NamedTuple):
    """A Sample with something left to do on the device: image (3, H, W) uint8 RGB; `finish` makes it float32."""

    image: Tensor
    label: Tensor
    name: str
    finish: Callable[[Tensor], Tensor]
    plain: Callable[[Tensor], Tensor] | None = None  # what makes `Batch.plain` of it
    valid: Tensor | None = None
    disparity: Tensor | None = None


class UnfinishedBatch(NamedTuple):
    """A Batch with something left to do on the device: image (N, 3, H, W) uint8 RGB, one `finish` for each picture."""

    image: Tensor
    label: Tensor
    name: list[str]
    finish: list[Callable[[Tensor], Tensor]]
    plain: list[Callable[[Tensor], Tensor]] | None = None
    valid: Tensor | None = None
    disparity: Tensor | None = None

    def to(self, device: torch.device | str, channels_last: bool = False) -> Batch:
        """The finished batch on `device`, where it is finished too; see `Batch.to`. On MPS it is finished before: a change of
        hue by torchvision has a copy that runs ahead."""
        image = self.image.to(device, non_blocking=True) if copies_may_run_ahead(device) else self.image
        images = [
            None if todo is None else torch.stack([finish(picture) for finish, picture in zip(todo, image)])
            for todo in (self.finish, self.plain)
        ]
        finished = Batch(images[0], self.label, self.name, images[1], self.valid, self.disparity)
        return finished.to(device, channels_last)
