"""LARS: every layer steps by the same part of its own length (You, Gitman & Ginsburg 2017), for very large batches.

Letters: w a layer's weights, g their gradient, b weight decay, m momentum, eta the trust coefficient, v the layer's memory.

    t = eta |w| / |g + b w|           v <- m v + lr t (g + b w)     w <- w - v

That is SimCLR's released code: the memory holds steps, and a new rate does not scale the earlier ones. (The package `lightly`
stores gradients there, which a new rate scales.) Biases and normalisation layers (`adapt=False` in their group) are left out:
t = 1, plain SGD with momentum.
"""

import torch
from torch import Tensor

TRUST = 0.001  # eta


class LARS(torch.optim.Optimizer):
    """A torch optimiser; a group may have its own `lr`, `weight_decay` and `adapt` (False: plain SGD with momentum).

    Where a norm in t is zero, t is 1.
    """

    def __init__(
        self,
        params,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 1e-6,  # paper
        trust: float = TRUST,
    ) -> None:
        if lr < 0 or not 0 <= momentum < 1 or weight_decay < 0 or trust <= 0:
            raise ValueError(
                f"LARS got lr={lr}, momentum={momentum}, weight_decay={weight_decay}, trust={trust}; "
                "it wants lr, weight_decay >= 0, 0 <= momentum < 1, trust > 0."
            )
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "adapt": True})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is None:
                    continue
                memory = self.state[w].setdefault("momentum_buffer", torch.zeros_like(w))
                memory.mul_(group["momentum"]).add_(group["lr"] * _update(w, w.grad, group))
                w.sub_(memory)
        return loss


def _update(w: Tensor, g: Tensor, group: dict) -> Tensor:
    """t (g + b w)"""
    decayed = g + group["weight_decay"] * w
    if not group["adapt"]:
        return decayed
    w_norm, g_norm = w.norm(), decayed.norm()
    return torch.where((w_norm > 0) & (g_norm > 0), group["trust"] * w_norm / g_norm * decayed, decayed)
