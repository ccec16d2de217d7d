"""Gradients written by hand, which cannot be differentiated again."""

import functools
from collections.abc import Callable

import torch


def once_differentiable(instead: str) -> Callable:
    """Decorate the `backward` of a `torch.autograd.Function`: an error with create_graph=True. instead: what to do then.

    torch's decorator of this name raises only if the gradient from above requires one itself. That of a loss is the constant
    1, so a second derivative through it would be wrong, without an error.
    """

    def decorate(backward: Callable) -> Callable:
        @functools.wraps(backward)
        def checked(ctx, *upstream):
            if torch.is_grad_enabled():
                raise RuntimeError(f"create_graph=True, but this gradient cannot be differentiated a second time; {instead}.")
            return backward(ctx, *upstream)

        return checked

    return decorate
