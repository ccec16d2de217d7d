"""Depth alone: an encoder and a decoder learn how near things are, from pictures with and without labels.

Letters: x a picture, D*(x) its disparity (`data.disparity`), D(x) what the network says.

    L = 1/2 (BerHu(D(x_S), D*(x_S)) + BerHu(D(x_T), D*(x_T)))                             losses/berhu.py

x_S, x_T: the pictures that later stages read with and without labels; no label is read here. What is learnt is the start of a
segmenter: `MultiTask.begin_with`. Hoyer et al. (CVPR 2021) learn depth from video, without D*; here it is given.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from course_lib.data import Batch
from course_lib.methods.base import Method
from course_lib.methods.step import Losses, Stream
from course_lib.methods.supervision import depth_loss, require_disparity
from course_lib.typed import SHARE, in_range


@dataclass(frozen=True)
class DepthSettings:
    """Constants of the method."""

    bottom: float = 0.1  # [code] of SegSDF: the share of rows at the bottom that do not count

    def __post_init__(self) -> None:
        in_range(self, bottom=SHARE)


class Depth(Method):
    """Train the depth decoder of a network that has one."""

    name = "depth"
    Settings = DepthSettings
    segments: ClassVar[bool] = False

    @classmethod
    def streams(cls, settings: DepthSettings) -> dict[str, Stream]:
        return {"source": Stream(depth=True), "target": Stream(depth=True)}

    def __init__(self, segmenter: nn.Module, *rest: Any, **others: Any) -> None:
        require_disparity(segmenter, self.name)
        super().__init__(segmenter, *rest, **others)
        self.weights, self.landmarks = {"depth": 0.5, "depth_unlabelled": 0.5}, {}

    def losses(self, source: Batch, target: Batch) -> Iterator[Losses]:
        for name, x in (("depth", source), ("depth_unlabelled", target)):
            yield {name: depth_loss(self.segmenter(x.image), x, self.settings.bottom)}       # BerHu(D(x), D*(x))
