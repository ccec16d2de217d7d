"""What the labels alone give: the same network trained on the probe's few labelled pictures, backbone and classifier together.

Letters: N pictures in a batch, C classes, D features.
"""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.data import NORMALISATIONS, EndlessSampler, Views, ViewSettings
from course_lib.data.sampling import mixed_seed
from course_lib.evaluation.probe import ClassPictures, pooled_features
from course_lib.evaluation.scoring import network_device
from course_lib.networks import pooled


@dataclass(frozen=True)
class SupervisedSettings:
    """How a classifier is trained from scratch. All of it is ours."""

    steps: int = 200  # with 160 pictures and fewer, all are learnt by then
    batch_size: int = 64
    lr: float = 2e-3  # AdamW, 10 steps of warm-up, cosine to zero
    weight_decay: float = 1e-2
    views: ViewSettings = field(default_factory=lambda: ViewSettings(crop_area=(0.3, 1.0), jitter_strength=0.5,
                                                                     grey_probability=0, blur_probability=0))  # fmt: skip


def train_from_scratch(
    segmenter: nn.Module,
    pictures: ClassPictures,
    settings: SupervisedSettings = SupervisedSettings(),
    *,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> nn.Linear:
    """Train `segmenter` (in place) with a linear classifier on its pooled features; returns the classifier.

    L = cross-entropy(W mean over the grid of f(t(x)) + b, y), t a random view of the picture. The last step counts.
    """
    device = network_device(segmenter, device)
    classifier = nn.Linear(segmenter.feature_dim, len(pictures.classes))
    segmenter.to(device).train()
    classifier.to(device)
    weights = [*segmenter.backbone_parameters(), *classifier.parameters()]
    optimiser = torch.optim.AdamW(weights, lr=settings.lr, weight_decay=settings.weight_decay)
    views, normalisation = Views(settings.views), NORMALISATIONS[segmenter.normalisation]
    generator = torch.Generator().manual_seed(mixed_seed(seed, 1))
    draws = iter(EndlessSampler(len(pictures.image), seed))
    for step in range(settings.steps):
        for group in optimiser.param_groups:
            group["lr"] = settings.lr * min(1, (step + 1) / 10) * (1 + math.cos(math.pi * step / settings.steps)) / 2
        rows = [next(draws)[0] for _ in range(settings.batch_size)]
        x = normalisation.normalise(255 * views(pictures.image[rows].to(device) / 255, generator))
        logits = classifier(pooled(segmenter(x).features))
        optimiser.zero_grad(set_to_none=True)
        F.cross_entropy(logits, pictures.label[rows].to(device)).backward()
        optimiser.step()
    return classifier.cpu().requires_grad_(False)


def accuracy(segmenter: nn.Module, classifier: nn.Linear, pictures: ClassPictures) -> float:
    """The part of the pictures that backbone and classifier name rightly, without augmentation."""
    right: Tensor = classifier(pooled_features(segmenter, pictures.image)).argmax(1) == pictures.label
    return right.float().mean().item()
