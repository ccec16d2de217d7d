"""Batch normalisation over the batches of all processes.

Letters: R processes, process r holds n_r values per channel with mean m_r and variance v_r; n = sum_r n_r.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from course_lib import ranks
from course_lib.losses.inputs import full_precision


class SyncBatchNorm(nn.SyncBatchNorm):
    """torch's `SyncBatchNorm`, which runs on GPUs alone, for any device: R processes normalise as one with the whole batch.

        m = sum_r n_r m_r / n,   v = sum_r n_r (v_r + (m_r - m)^2) / n,   y = (x - m) / sqrt(v + eps) * weight + bias

    The gradient flows through m and v into every process's part. In eval mode, with one process, and while `alone` is
    true (measuring statistics, when processes may hold different numbers of batches), it is `nn.BatchNorm2d`.
    """

    alone = False

    def forward(self, x: Tensor) -> Tensor:
        """(n_r, C, ...) -> the same shape; in training the statistics are those of all processes' parts."""
        if self.alone or not self.training or ranks.count() == 1:
            return _BatchNorm.forward(self, x)
        if x.is_cuda:
            return super().forward(x)
        own = full_precision(x).transpose(0, 1).flatten(1)  # (C, n_r)
        v, m = torch.var_mean(own, dim=1, correction=0)
        every = ranks.gather(torch.stack([torch.full_like(m, own.shape[1]), m, v])[None])   # (R, 3, C)
        share = every[:, 0] / every[:, 0].sum(0)                                            # n_r / n
        m = (share * every[:, 1]).sum(0)
        v = (share * (every[:, 2] + (every[:, 1] - m) ** 2)).sum(0)
        self._follow(m.detach(), v.detach(), every[:, 0, 0].sum().item())
        shape = (1, -1, *[1] * (x.ndim - 2))
        scale = torch.rsqrt(v + self.eps) if self.weight is None else torch.rsqrt(v + self.eps) * self.weight
        shift = -m * scale if self.bias is None else self.bias - m * scale
        return (x * scale.view(shape) + shift.view(shape)).to(x.dtype)

    def _follow(self, m: Tensor, v: Tensor, n: float) -> None:
        """The running statistics, with the unbiased variance, as torch keeps them."""
        if self.track_running_stats:
            self.num_batches_tracked.add_(1)
            step = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
            self.running_mean.lerp_(m, step)
            self.running_var.lerp_(v * (n / max(1, n - 1)), step)


def synchronised(network: nn.Module) -> nn.Module:
    """The network, every batch normalisation inside replaced by one over all processes that has its weights and buffers."""
    for name, child in network.named_children():
        if isinstance(child, _BatchNorm):
            new = SyncBatchNorm(child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats)
            new._parameters, new._buffers = child._parameters, child._buffers
            setattr(network, name, new.train(child.training))
        else:
            synchronised(child)
    return network
