"""LARS: every layer steps by the same part of its own length (You, Gitman & Ginsburg 2017), for very large batches.

Letters: w a layer's weights, g their gradient, b weight decay, m momentum, eta the trust coefficient, v the layer's memory.

    google      t = eta |w| / |g + b w|           v <- m v + lr t (g + b w)     w <- w - v         SimCLR's released code
    lightly     t = eta |w| / (|g| + b |w|)       v <- m v + t (g + b w)        w <- w - lr v      the library lightly

They differ when the rate changes: there the memory holds steps, here it holds gradients that the new rate scales. Biases
and normalisation layers (`adapt=False` in their group) are left out in both: t = 1, plain SGD with momentum.
"""

from typing import Literal

import torch
from torch import Tensor

TRUST = 0.001  # eta; both codes


class LARS(torch.optim.Optimizer):
    """A torch optimiser; a group may have its own `lr`, `weight_decay` and `adapt` (False: plain SGD with momentum).

    Where a norm in t is zero, t is 1 (and lightly leaves out the decay).
    """

    def __init__(
        self,
        params,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 1e-6,  # paper
        trust: float = TRUST,
        form: Literal["google", "lightly"] = "google",
    ) -> None:
        if form not in ("google", "lightly"):
            raise ValueError(f"LARS got form={form!r}; it wants 'google' (the rate inside the memory) or 'lightly'.")
        if lr < 0 or not 0 <= momentum < 1 or weight_decay < 0 or trust <= 0:
            raise ValueError(
                f"LARS got lr={lr}, momentum={momentum}, weight_decay={weight_decay}, trust={trust}; "
                "it wants lr, weight_decay >= 0, 0 <= momentum < 1, trust > 0."
            )
        self.form = form
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "adapt": True})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            inside, outside = (group["lr"], 1.0) if self.form == "google" else (1.0, group["lr"])
            for w in group["params"]:
                if w.grad is None:
                    continue
                update = self._update(w, w.grad, group)
                memory = self.state[w].setdefault("momentum_buffer", torch.zeros_like(w))
                memory.mul_(group["momentum"]).add_(inside * update)
                w.sub_(outside * memory)
        return loss

    def _update(self, w: Tensor, g: Tensor, group: dict) -> Tensor:
        """t (g + b w)"""
        decayed = g + group["weight_decay"] * w
        if not group["adapt"]:
            return decayed
        w_norm, b = w.norm(), group["weight_decay"]
        if self.form == "google":
            g_norm, still = decayed.norm(), decayed
            length = g_norm
        else:
            g_norm, still = g.norm(), g
            length = g_norm + b * w_norm + 1e-8
        return torch.where((w_norm > 0) & (g_norm > 0), group["trust"] * w_norm / length * decayed, still)
