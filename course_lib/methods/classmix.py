"""ClassMix (Olsson et al., WACV 2021): few labels in one domain, and unlabelled pictures mixed with each other.

Letters: as in `dacs`, with the labelled pictures as x_S, y_S and the unlabelled ones as x_T; n a picture of the batch, n + 1
the next one (of all processes; after the last one the first).

    the step    that of DACS:  L = L_S + lambda_mix L_mix + the terms                                           methods/dacs.py
    M           the pixels of half of the classes of y~_{n+1}, the teacher's label of x_{n+1}                         mixing.py
    x_m, y_m    M x_{n+1} + (1 - M) x_n,  M y~_{n+1} + (1 - M) y~_n,  q_m = M q_{n+1} + (1 - M) q_n

DACS pastes labelled pixels (`mix_from = "labelled"`): between domains the teacher's labels alone would be those of the source.
Differences from the release: with an odd number of classes the larger half is pasted, and the share of sure pixels is that of
the pictures before they are mixed.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from course_lib import ranks
from course_lib.data import Batch
from course_lib.methods.dacs import DACS, DACSSettings
from course_lib.mixing import Mixed, following, paste
from course_lib.typed import checked

MixFrom = Literal["unlabelled", "labelled"]


@dataclass(frozen=True)
class ClassMixSettings(DACSSettings):
    """DACS's, of which the defaults are ClassMix's released ones, too; and which pictures are pasted."""

    mix_from: MixFrom = "unlabelled"  # [code]; "labelled": as in DACS

    def __post_init__(self) -> None:
        super().__post_init__()
        checked(MixFrom, self.mix_from, "mix_from")


class ClassMix(DACS):
    """Train a segmenter on labelled pictures, and on unlabelled ones, mixed with each other, with a teacher's labels.

    The stream "source" has the labelled pictures, "target" the unlabelled ones.
    """

    name = "classmix"
    Settings = ClassMixSettings

    @classmethod
    def check_batch(cls, settings: ClassMixSettings, pictures: int) -> None:
        if settings.mix_from == "unlabelled" and pictures < 2:
            raise ValueError(
                f"{cls.name} mixes two unlabelled pictures, and a step has {pictures}. Set batch_size to 2 or more, or "
                "mix_from=labelled, which pastes labelled pictures."
            )

    def mix(self, x_S: Batch, x_T: Batch, y: Tensor, q: Tensor, numbers: torch.Generator) -> Mixed:
        """The mixed pictures; y, q (N, H, W) the labels of the unlabelled ones x_T, and their weights."""
        if self.settings.mix_from == "labelled":
            pasted = x_S
        else:
            self.check_batch(self.settings, ranks.count() * len(y))
            pasted = followers(x_T, y)
        return paste(self.mask(pasted, x_T._replace(label=y), numbers), pasted, x_T, y, q, self.pasted(q))

    def pasted(self, q: Tensor) -> Tensor:
        """As in DACS; where unlabelled pictures are pasted, the weights of the next picture's labels."""
        return super().pasted(q) if self.settings.mix_from == "labelled" else following(q)

    def mask(self, pasted: Batch, under: Batch, numbers: torch.Generator) -> Tensor:
        """M (N, H, W) bool: which pixels of `pasted` are pasted on the pictures `under`; both with their labels."""
        return self.mixer.mask(pasted.label, numbers)


def followers(batch: Batch, label: Tensor) -> Batch:
    """The picture after each one (`mixing.following`) with its label; name and plain are left out."""
    others = {name: following(value) for name, value in batch._replace(label=label, plain=None)._asdict().items()
              if isinstance(value, Tensor)}  # fmt: skip
    return batch._replace(name=[], plain=None, **others)
