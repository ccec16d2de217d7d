"""What the losses do with their arguments before they compute."""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor

IGNORE = 255  # train id of pixels that do not count
SHORTEST = 1e-12  # a vector shorter than this has no direction: similarity 0 to all, and no gradient

Reduction = Literal["mean", "none"]


def full_precision(x: Tensor) -> Tensor:
    """`x` in float32 where it is float16 or bfloat16, else as it is: no copy, and float64 stays.

    Half precision holds numbers below 65504 (float16) with three digits: sums over pixels overflow or stop growing.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


def without_autocast(x: Tensor) -> AbstractContextManager:
    """A context in which what is computed from x keeps its format; the meta device has no autocast to switch off."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def train_ids(labels: Tensor, num_classes: int, ignore_index: int | None = IGNORE) -> Tensor:
    """Labels of any integer type as int64, once every id on the CPU is one of 0 to num_classes - 1 or `ignore_index`.

    None: nothing is ignored.

    On a GPU ids are not looked at, because the host would have to wait for them: what a stray id does there is undefined.

    >>> train_ids(torch.tensor([0, 18, 255], dtype=torch.uint8), 19)
    tensor([  0,  18, 255])

    Raises ValueError for a stray id, and for labels that are not integers.
    """
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"Got labels of {labels.dtype}, wanted whole train ids. Take the argmax over classes.")
    y = labels.long()
    if y.device.type == "cpu":
        stray = (y < 0) | (y >= num_classes)
        if ignore_index is not None:
            stray &= y != ignore_index
        if stray.any():
            ignored = "" if ignore_index is None else f", or {ignore_index} for what does not count"
            raise ValueError(
                f"Got label {int(y[stray][0])}, wanted train ids 0 to {num_classes - 1}{ignored}. Map raw ids to train ids "
                "first."
            )
    return y


def checked_weight(weight: Tensor | None, num_classes: int, dtype: torch.dtype) -> Tensor | None:
    """The weights of the classes (C,) in the format of the loss. They are constants."""
    if weight is None:
        return None
    if weight.shape != (num_classes,):
        raise ValueError(f"weight is {tuple(weight.shape)}; it wants one number for each class, ({num_classes},).")
    refuse_gradient("weight", weight)
    return weight.to(dtype)


def refuse_gradient(name: str, x: Tensor) -> None:
    """Raise ValueError where a constant of a loss requires a gradient."""
    if x.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"The argument {name} requires a gradient, and the loss has none for it; it wants constants: {name}.detach()."
        )


def mean_or_map(values: Tensor, reduction: Reduction) -> Tensor:
    """"none": the values as they are; "mean": their mean, 0 if there are none."""
    if reduction == "none":
        return values
    if reduction == "mean":
        return values.mean() if values.numel() else values.sum()
    raise ValueError(f"reduction is {reduction!r}; choose 'mean' (a number) or 'none' (a map, one number per pixel).")


def checked_temperature(temperature: float | Tensor) -> float | Tensor:
    """The temperature, which is one positive number; a tensor in full precision, so that its gradient is added up there.

    A tensor on a GPU is not read: the GPU would have to be waited for.
    """
    if isinstance(temperature, Tensor):
        if temperature.ndim:
            raise ValueError(
                f"temperature is a tensor of shape {tuple(temperature.shape)}; the loss wants one number, a tensor without "
                "dimensions: temperature.squeeze()."
            )
        temperature = full_precision(temperature)
        if temperature.device.type != "cpu":
            return temperature
    if not torch.finfo(torch.float32).tiny <= temperature < math.inf:
        raise ValueError(f"temperature is {temperature}; similarities are divided by it: give a number above 0, say 0.1.")
    return temperature
