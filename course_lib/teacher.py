"""The mean teacher: a copy of a network whose weights are a moving average of the network's own.

Letters: theta the weights of the student, theta' those of the teacher, t the step (from 0), a_t the weight of the old teacher.
"""

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from course_lib.typed import MOMENTUM, checked, in_range

Buffers = Literal["keep", "copy", "average"]
Normalisation = Literal["batch", "running"]


@dataclass(frozen=True)
class TeacherSettings:
    """Of an `EMA`."""

    alpha: float = 0.99  # [code] DACS, ReCo, SegSDF; DAFormer and those built on it 0.999
    teacher_buffers: Buffers = "keep"  # [code] all of them
    teacher_normalisation: Normalisation = "batch"  # [code] the DAFormer line: train mode, dropout off

    def __post_init__(self) -> None:
        in_range(self, alpha=MOMENTUM)
        checked(Buffers, self.teacher_buffers, "teacher_buffers")
        checked(Normalisation, self.teacher_normalisation, "teacher_normalisation")

    def rate(self, step: int, steps: int | None = None) -> float:
        """a_t of step t (of `steps`):  min(1 - 1/(t + 1), alpha)."""
        return min(1 - 1 / (step + 1), self.alpha)


@dataclass(frozen=True)
class CosineTeacherSettings(TeacherSettings):
    """Of a teacher that is slower the longer the training takes: its last rate is 1, so that it stands still.

        a_t = min(1 - 1/(k t + 1),  1 - (1 - alpha) (1 + cos(pi t / T)) / 2),    T the number of steps

    Source: SemiSegContrast (ICCV 2021), released code; the cosine is BYOL's (NeurIPS 2020).

    >>> settings = CosineTeacherSettings()
    >>> [round(settings.rate(t, 100_000), 4) for t in (0, 1, 50, 50_000, 99_999)]
    [0.0, 0.9091, 0.995, 0.9975, 1.0]
    """

    alpha: float = 0.995  # [code] at the beginning
    alpha_warm: float = 10.0  # [code] k; between domains 1, as for others

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range(self, alpha_warm=(1.0, 1e6))

    def rate(self, step: int, steps: int | None = None) -> float:
        if steps is None:
            raise ValueError("A cosine schedule wants the number of steps: follow(module, step, steps).")
        cosine = 1 - (1 - self.alpha) * (1 + math.cos(math.pi * min(step / max(1, steps), 1.0))) / 2
        return min(1 - 1 / (self.alpha_warm * step + 1), cosine)


class EMA(nn.Module):
    """A teacher that follows a module by a moving average of its weights; called like the module, without gradient.

        a_t     = min(1 - 1/(t + 1), alpha)
        theta' <- a_t theta' + (1 - a_t) theta

    t = 0 copies all, buffers too (a_0 = 0). Until alpha is reached the teacher is the plain mean of the students of all steps.
    `follow` is called once per step, before its first batch, however many batches are accumulated: the teacher of step t
    then contains the student after t optimiser steps.

    teacher_buffers: what happens to buffers that the module has, such as running statistics, after step 0:
        "keep"      nothing: the teacher's running statistics come from the teacher's own inputs, target pictures alone
        "copy"      those of the student
        "average"   like weights; whole numbers are copied
    teacher_normalisation, in training:
        "batch"     normalisation layers are in train mode (statistics of the batch), everything else is in eval mode, so that
                    dropout and stochastic depth are off; layers that the module itself freezes stay frozen
        "running"   all of it is in eval mode. With "keep" and layers that are not frozen the statistics stay those of step 0
    In eval mode (scoring) all of it is in eval mode.

    State: parameters without gradient and buffers of `module`, in the state_dict. Every process computes the same average of
    equal students; running statistics that a forward pass changes are averaged by the loop, as the student's are.

    Raises ValueError where the module to follow has other parameters or buffers, or the step is negative.

    Source: Tarvainen and Valpola (NeurIPS 2017); the schedule and the defaults as in the released code of DACS (WACV 2021) and
    DAFormer (CVPR 2022).

    >>> student = nn.Linear(1, 1, bias=False)
    >>> teacher = EMA(student)
    >>> for t, weight in enumerate([4.0, 2.0, 0.0]):
    ...     _ = nn.init.constant_(student.weight, weight)
    ...     teacher.follow(student, t)
    >>> round(teacher(torch.ones(1, 1)).item(), 4)  # the mean of the three
    2.0
    """

    def __init__(self, module: nn.Module, settings: TeacherSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or TeacherSettings()
        self.module = copy.deepcopy(module).requires_grad_(False)
        self.train(module.training)

    def rate(self, step: int, steps: int | None = None) -> float:
        """a_t of step t of `steps`, which a schedule over the whole training wants."""
        if step < 0:
            raise ValueError(f"Got step {step}; the steps that a teacher follows count from 0.")
        return self.settings.rate(step, steps)

    @torch.no_grad()
    def follow(self, module: nn.Module, step: int, steps: int | None = None) -> None:
        """Take in the module's weights at the start of step `step` (of `steps`); step 0 copies them."""
        a = self.rate(step, steps)
        self._check(module)
        _move(list(self.module.parameters()), list(module.parameters()), a)            # a theta' + (1 - a) theta
        kept = self.settings.teacher_buffers if step else "copy"
        if kept == "keep":
            return
        own, new = list(self.module.buffers()), list(module.buffers())
        numbers = [b.is_floating_point() and kept == "average" for b in own]
        _move([b for b, n in zip(own, numbers) if n], [b for b, n in zip(new, numbers) if n], a)
        _move([b for b, n in zip(own, numbers) if not n], [b for b, n in zip(new, numbers) if not n], 0.0)

    def follow_as(self, teacher: "EMA", module: nn.Module, step: int, steps: int | None = None) -> None:
        """`follow` with the settings of another teacher, which a term learns of when it is called."""
        if self.settings != teacher.settings:
            self.settings = teacher.settings
            self.train(self.training)
        self.follow(module, step, steps)

    @torch.no_grad()
    def forward(self, *inputs: Any, **options: Any) -> Any:
        """What the module returns, without gradient."""
        return self.module(*inputs, **options)

    def train(self, mode: bool = True) -> "EMA":
        """As in torch, except that in training only normalisation is, and that as the settings say."""
        super().train(mode)
        if mode and self.settings.teacher_normalisation == "running":
            self.module.eval()
        elif mode:  # first the module's own train(), which may keep its normalisation frozen
            for layer in self.module.modules():
                if not isinstance(layer, _NormBase):
                    layer.training = False
        return self

    def _check(self, module: nn.Module) -> None:
        for what in ("named_parameters", "named_buffers"):
            own, new = ({name: tuple(x.shape) for name, x in getattr(m, what)()} for m in (self.module, module))
            for name in sorted(own.keys() | new.keys()):
                if own.get(name) != new.get(name):
                    raise ValueError(
                        f"This teacher follows a module whose {name!r} is {own.get(name, 'missing')}; got one where it is "
                        f"{new.get(name, 'missing')}. Follow the module that EMA was built from."
                    )

    def extra_repr(self) -> str:
        return str(self.settings)


def _move(old: list[Tensor], new: list[Tensor], a: float) -> None:
    """old <- a old + (1 - a) new, in place; a = 0 copies bit for bit."""
    if not old:
        return
    if a == 0:
        torch._foreach_copy_(old, new)
    else:
        torch._foreach_lerp_(old, new, 1 - a)
