"""What methods and terms share: the names of a step."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from course_lib.data import Batch
from course_lib.networks import Cost, Prediction
from course_lib.teacher import EMA

Losses = dict[str, Tensor]  # unweighted, by name

# looks(stream) -> its pictures as batches on the method's device, each once, without augmentation, this process's part;
# looks(stream, labels="files", shared=False): with other labels; all pictures in every process. Called in evaluation mode
# and without gradient
Looks = Callable[..., Iterator[Batch]]


class Stream(NamedTuple):
    """What a method reads of one domain."""

    labels: Literal["none", "true", "files"] = "none"  # files: pseudo-labels that an earlier network wrote
    look: Literal["normalised", "unit"] = "normalised"  # unit: plain RGB in [0, 1], without augmentation
    plain: bool = False  # also without the changes of colour (`Batch.plain`)
    whole: bool = False  # without the recipe's crop: the method cuts windows itself
    depth: bool = False  # with `Batch.disparity`


ONE_NETWORK = Cost()


class Passes(NamedTuple):
    """How often a step sends a training batch through the network: with a backward pass, without, and through a frozen network
    for its encoder's maps (`Segmenter.pyramid`)."""

    trained: float  # a window of half of the batch's pixels counts 0.5
    frozen: float
    encoded: float = 0

    def cost(self, network: Cost = ONE_NETWORK) -> float:
        """In forward passes; a backward pass costs two. network: what one call costs (`Segmenter.cost`).

        >>> Passes(trained=2, frozen=1).cost()
        7.0
        """
        return 3 * self.trained * network.training + self.frozen * network.whole + self.encoded * network.pyramid


class Taught(NamedTuple):
    """What a teacher says of a step's target pictures, and the teacher itself; nothing here has a gradient."""

    image: Tensor  # (N, 3, H, W) target pictures without changes of colour, normalised
    label: Tensor  # (N, H, W) train ids
    weight: Tensor  # (N, H, W), q
    numbers: torch.Generator  # the random numbers of this batch, the same in all processes
    prediction: Prediction  # the teacher's, of the target pictures
    source: Tensor  # (N, 3, H, W) source pictures without changes of colour, normalised
    teacher: EMA  # called like the segmenter
    mixed_weight: Tensor  # (N, H, W), q of the mixed pictures: 1 where a pixel is of the source
    mixed_sure: Tensor  # (N, H, W), the confidence in their labels: 1 where a label was pasted, 0 where a pixel does not count


@dataclass(frozen=True)
class Step:
    """What a term can read beside the predictions: the number of the step, its batches by stream, what a method's teacher says.

    numbers: the term's own random numbers of this batch, the same in all processes."""

    number: int
    batches: dict[str, Batch]
    taught: Taught | None = None
    numbers: torch.Generator = field(default_factory=torch.Generator)


def joined(streams: dict[str, Stream], others: dict[str, Stream]) -> dict[str, Stream]:
    """Both, where they agree.

    >>> joined({"source": Stream("true")}, {"source": Stream(plain=True)})
    {'source': Stream(labels='true', look='normalised', plain=True, whole=False, depth=False)}
    """
    for name in streams.keys() & others.keys():
        a, b = streams[name], others[name]
        if a.look != b.look or {a.labels, b.labels} == {"true", "files"}:
            raise ValueError(f"One term or method reads {name} as {a}, another as {b}; a stream is read in one way.")
    found = streams | {name: stream for name, stream in others.items() if name not in streams}
    for name in streams.keys() & others.keys():
        a, b = streams[name], others[name]
        labels = b.labels if a.labels == "none" else a.labels
        both = {what: getattr(a, what) or getattr(b, what) for what in ("plain", "whole", "depth")}
        found[name] = a._replace(labels=labels, **both)
    return found
