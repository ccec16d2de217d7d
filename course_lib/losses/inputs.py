"""What the losses do with their arguments before they compute."""

import math

import torch
from torch import Tensor


def full_precision(x: Tensor) -> Tensor:
    """`x` in float32 where it is float16 or bfloat16, else as it is: no copy, and float64 stays.

    Half precision holds numbers below 65504 (float16) with three digits: sums over pixels overflow or stop growing.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


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
