"""AdaptSegNet: adversarial learning in the output space (Tsai et al., CVPR 2018).

Letters: P a source prediction, T a target prediction (softmax maps), D the discriminator, Y the source label.

    step 1   L_seg(P, Y) + lambda_seg L_seg(P_aux, Y)          segment the source
    step 2   lambda_adv L_D(D(T), source)                      train the segmenter against D, which is frozen
    step 3   1/2 L_D(D(P), source) + 1/2 L_D(D(T), target)     train D on the true domains, predictions detached

The output space is low-dimensional and structured: label maps of streets are alike, whatever the camera.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from course_lib.data import Batch
from course_lib.losses.adversarial import SOURCE, TARGET, Gan, domain_loss, probabilities
from course_lib.methods.base import Method
from course_lib.methods.step import Losses
from course_lib.networks import Discriminator, Prediction
from course_lib.typed import RATE, WEIGHT, in_range


@dataclass(frozen=True)
class AdaptSegNetSettings:
    """Constants of the method; defaults: the authors' single-level, vanilla setting."""

    levels: Literal["single", "multi"] = "single"  # multi: a second discriminator, on the auxiliary output
    gan: Gan = "vanilla"
    lambda_adv: float = 0.001  # [code] single level and main level; least-squares: 0.01
    lambda_adv_aux: float = 0.0002  # [code] multi-level, auxiliary output
    discriminator_lr: float = 1e-4  # [code] Adam
    discriminator_betas: tuple[float, float] = (0.9, 0.99)  # [code]
    discriminator_width: int = 64  # [code]
    discriminator_depth: int = 5  # [code] convolutions of stride 2
    discriminator_input: Literal["image", "output"] = "image"  # upsampled to the image (published), or as it leaves the network

    def __post_init__(self) -> None:
        in_range(self, lambda_adv=WEIGHT, lambda_adv_aux=WEIGHT, discriminator_lr=RATE, discriminator_width=(1, 8192),
                 discriminator_depth=(1, 16))  # fmt: skip
        if not all(0 <= beta < 1 for beta in self.discriminator_betas):
            raise ValueError(f"discriminator_betas is {self.discriminator_betas}; Adam wants two numbers from 0 to below 1.")


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No gradients for the module's weights; they still flow through it to its input."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)


class AdaptSegNet(Method):
    """Train a segmenter on the source while a discriminator per level pulls target predictions towards source ones."""

    name = "adaptsegnet"
    Settings = AdaptSegNetSettings
    offers = (("source",), ("target",))

    def __init__(self, segmenter: nn.Module, *rest: Any, **others: Any) -> None:
        super().__init__(segmenter, *rest, **others)
        settings = self.settings
        levels = ("main", "aux") if settings.levels == "multi" else ("main",)
        self.discriminators = nn.ModuleDict(
            {
                level: Discriminator(segmenter.num_classes, settings.discriminator_width, settings.discriminator_depth)
                for level in levels
            }
        )
        for level, discriminator in self.discriminators.items():
            self.optimisers[f"discriminator_{level}"] = torch.optim.Adam(
                discriminator.parameters(), lr=settings.discriminator_lr, betas=settings.discriminator_betas
            )
            self.weights[f"adversarial_{level}"] = settings.lambda_adv if level == "main" else settings.lambda_adv_aux
            for side in ("source", "target"):
                self.weights[f"discriminator_{level}_{side}"] = 0.5
                if settings.gan == "vanilla":
                    self.landmarks[f"discriminator_{level}_{side}"] = (math.log(2), "ln 2: cannot tell the domains apart")

    def outputs(self, prediction: Prediction, size: tuple[int, int]) -> dict[str, Tensor]:
        """What each level's discriminator sees of a prediction: a softmax map (N, C, H, W)."""
        logits = {"main": prediction.logits, "aux": prediction.aux_logits}
        if "aux" in self.discriminators and prediction.aux_logits is None:
            raise ValueError(
                "levels='multi' plays a second game on the auxiliary output, but this segmenter has none. "
                "Build it with an auxiliary head (--set \"network_options={'aux': True}\"), or choose levels='single'."
            )
        size = size if self.settings.discriminator_input == "image" else None
        return {level: probabilities(logits[level], size, prediction.align_corners) for level in self.discriminators}

    def domain(self, level: str, outputs: dict[str, Tensor], domain: float) -> Tensor:
        """L_D: how far D is from calling these outputs `domain`."""
        return domain_loss(self.discriminators[level](outputs[level]), domain, self.settings.gan)

    def losses(self, source: Batch, target: Batch) -> Iterator[Losses]:
        levels = list(self.discriminators)
        prediction_s = self.segmenter(source.image)
        batches = {"source": source, "target": target}
        yield self.supervised(prediction_s, source.label) | self.terms(batches, source=prediction_s)    # L_seg

        prediction_t = self.segmenter(target.image)
        T = self.outputs(prediction_t, target.image.shape[-2:])
        with frozen(self.discriminators):
            adversarial = {f"adversarial_{k}": self.domain(k, T, SOURCE) for k in levels}   # L_adv: T passes for P
        yield adversarial | self.terms(batches, target=prediction_t)

        with torch.no_grad():                                                               # only D learns from here
            P = self.outputs(prediction_s, source.image.shape[-2:])
            T = {k: x.detach() for k, x in T.items()}
        yield {f"discriminator_{k}_source": self.domain(k, P, SOURCE) for k in levels}      # 1/2 L_D
        yield {f"discriminator_{k}_target": self.domain(k, T, TARGET) for k in levels}      # 1/2 L_D
