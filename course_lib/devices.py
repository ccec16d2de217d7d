"""What a device cannot do, and what is done instead, for Apple's MPS (docs/devices.md: nothing here has run on one).

    no float64                                                               sums of many numbers go to the CPU
    copies that do not wait may read memory that is free again [1]           every copy to it waits
    gradients of batch normalisation are wrong for channels_last [2]         pictures and weights stay contiguous

[1] github.com/pytorch/pytorch/issues/139550 and 189690, [2] 175189: open when this was written.
"""

from typing import TypedDict

import torch
from torch import Tensor


class Place(TypedDict):
    """Where a tensor is and of which type, as the arguments of `torch.zeros` and others."""

    device: torch.device
    dtype: torch.dtype


def long_sums(device: torch.device | str | None = None) -> Place:
    """Where sums over a data set are kept, for work on `device` (None: torch's default): float64, there or on the CPU.

    After 100 million pixels a float32 sum no longer grows by one. All of the library's float64 that comes from a device goes
    through here or through `widened`; tests/mps.py finds what does not.

    >>> long_sums("cuda:1"), long_sums("mps")
    ({'device': device(type='cuda', index=1), 'dtype': torch.float64}, {'device': device(type='cpu'), 'dtype': torch.float64})
    """
    device = torch.empty(0).device if device is None else torch.device(device)
    return {"device": torch.device("cpu") if device.type == "mps" else device, "dtype": torch.float64}


def widened(tensor: Tensor) -> Tensor:
    """`tensor` where and as sums of it are kept. On MPS the host waits for it.

    First the place, then the type: torch 2.14 writes nothing when a copy from MPS is also to become float64
    (github.com/pytorch/pytorch/issues/197715).
    """
    place = long_sums(tensor.device)
    return tensor.to(place["device"]).to(place["dtype"])


def copies_may_run_ahead(device: torch.device | str) -> bool:
    """Whether copies from the CPU to the device may be `non_blocking`."""
    return torch.device(device).type != "mps"


def image_layout(device: torch.device | str, channels_last: bool) -> torch.memory_format:
    """The memory format of pictures and weights on the device: channels_last where it is wanted and right."""
    return torch.channels_last if channels_last and torch.device(device).type != "mps" else torch.contiguous_format
