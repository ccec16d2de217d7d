"""What flows through the data room.

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


class Batch(NamedTuple):
    """N pictures: image (N, 3, H, W) float32 normalised, label (N, H, W) int64 train ids (255 = ignore), N names."""

    image: Tensor
    label: Tensor
    name: list[str]

    def to(self, device: torch.device | str, channels_last: bool = False) -> Batch:
        """The same batch on `device`; `channels_last` orders the image's memory as fast convolutions like it (not on MPS).

        The copy does not wait for a GPU when the batch lies in pinned memory.
        """
        ahead = copies_may_run_ahead(device)
        image = self.image.to(device, non_blocking=ahead, memory_format=image_layout(device, channels_last))
        return Batch(image, self.label.to(device, non_blocking=ahead), self.name)


class Unfinished(NamedTuple):
    """A Sample with something left to do on the device: image (3, H, W) uint8 RGB; `finish` makes it float32."""

    image: Tensor
    label: Tensor
    name: str
    finish: Callable[[Tensor], Tensor]


class UnfinishedBatch(NamedTuple):
    """A Batch with something left to do on the device: image (N, 3, H, W) uint8 RGB, one `finish` for each picture."""

    image: Tensor
    label: Tensor
    name: list[str]
    finish: list[Callable[[Tensor], Tensor]]

    def to(self, device: torch.device | str, channels_last: bool = False) -> Batch:
        """The finished batch on `device`, where it is finished too; see `Batch.to`. On MPS it is finished before: a change of
        hue by torchvision has a copy that runs ahead."""
        image = self.image.to(device, non_blocking=True) if copies_may_run_ahead(device) else self.image
        image = torch.stack([finish(picture) for finish, picture in zip(self.finish, image)])
        return Batch(image, self.label, self.name).to(device, channels_last)
