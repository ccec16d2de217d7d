"""Score a network on labelled pictures, and the one thing that may happen before: new normalisation statistics.

Letters: N images, C classes, h, w the network's grid, H, W the label's size.
"""

import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm.auto import tqdm

from course_lib import ranks
from course_lib.engine.precision import Precision
from course_lib.evaluation.confusion import Confusion, best_class
from course_lib.evaluation.multiscale import multiscale_probabilities
from course_lib.labels import IGNORE, LabelSpace, label_space
from course_lib.losses import upsample
from course_lib.losses.inputs import full_precision
from course_lib.networks import Prediction
from course_lib.networks.prediction import eval_mode
from course_lib.terminal import print

AT_ONCE = 2**30  # bytes of upsampled scores that `predicted_ids` makes at once: 19 classes of 14 megapixels


@dataclass(frozen=True)
class Scores:
    """What a network scored on a set of pictures, as fractions 0 to 1; nan is "not there"."""

    classes: tuple[str, ...]
    iou: tuple[float, ...]  # one per class; nan where the class is in no label and no prediction
    miou: float  # over all classes that are there
    miou_common: float  # over the classes above 0.5 % of the labelled pixels
    shares: tuple[float, ...]  # of the labelled pixels, one per class
    subsets: dict[str, float]  # the published means that these classes allow: "19", "16", "13"
    accuracy: float  # of pixels
    mean_accuracy: float  # of pixels, averaged over classes
    images: int
    seconds: float
    multiscale: bool = False

    def to_dict(self) -> dict:
        """Plain numbers, names and None (for nan): what `json.dump` writes."""
        by_name = {key: dict(zip(self.classes, getattr(self, key))) for key in ("iou", "shares")}
        plain = asdict(self) | {"classes": list(self.classes)} | by_name
        return {key: without_nan(value) for key, value in plain.items()}

    def table(self) -> str:
        """In percent: one class per line and the means below, for a terminal."""
        width = max(map(len, (*self.classes, "pixel accuracy")))
        lines = [f"{name:<{width}}  {_percent(iou)}" for name, iou in zip(self.classes, self.iou)]
        lines.append("-" * (width + 8))
        lines += [f"{'mIoU-' + name:<{width}}  {_percent(value)}" for name, value in self.subsets.items()]
        lines.append(f"{'mIoU, common':<{width}}  {_percent(self.miou_common)}")
        lines.append(f"{'pixel accuracy':<{width}}  {_percent(self.accuracy)}")
        lines.append(f"{self.images} images in {self.seconds:.1f} s{', 6 scales and flip' if self.multiscale else ''}")
        return "\n".join(lines)


class ScoresContent(TypedDict):
    """`Scores.to_dict` as it is read again from a file: the part that results are made of."""

    classes: list[str]
    iou: dict[str, float | None]
    miou: float | None
    miou_common: float | None
    subsets: dict[str, float | None]
    accuracy: float | None
    images: int


def evaluate(
    segmenter: nn.Module,
    loader: Iterable,
    space: int | str | LabelSpace,
    *,
    device: torch.device | str | None = None,
    multiscale: bool = False,
    precision: str = "fp32",
    progress: bool = True,
) -> Scores:
    """Score `segmenter` on the labelled batches of `loader`: IoU per class, mIoU, accuracy over all pixels together.

    prediction = argmax over c of up(logits)_c,   up: bilinear, straight from the network's grid to the LABEL's size, corners
    aligned or not as the network was trained. (That is how the published numbers were made.)

    `space` is a label space, its name, or a number of classes; `device` is by default the network's. The network
    runs in eval mode, hence with running normalisation statistics, and gets its mode back afterwards. Several processes
    each bring their part of the pictures and all get the scores of the whole.

    Raises:
        ValueError: for an empty loader, labels in which every pixel is ignored, logits that are NaN, or a precision that the
            device does not have.
    """
    classes, began = _class_names(space), time.perf_counter()
    confusion, images = counted(segmenter, loader, len(classes), device, multiscale, precision, progress)
    if confusion.matrix.sum() == 0:
        raise ValueError(
            f"None of the {images} pictures has a labelled pixel (all are {IGNORE}): a target without labels cannot be "
            "scored. Give a labelled split, for example split='val', and open it with labelled=True."
        )
    published = isinstance(space, int) or not label_space(space).own
    return scores_of(confusion, classes, images, time.perf_counter() - began, multiscale, published)


def counted(
    segmenter: nn.Module,
    loader: Iterable,
    num_classes: int,
    device: torch.device | str | None = None,
    multiscale: bool = False,
    precision: str = "fp32",
    progress: bool = True,
) -> tuple[Confusion, int]:
    """Which class was taken for which, over all processes, and how many pictures there were; see `evaluate`."""
    device = network_device(segmenter, device)
    passes = Precision(precision, device)
    segmenter.to(device)
    confusion, images = Confusion(num_classes, device), 0
    with eval_mode(segmenter), torch.no_grad(), ranks.fail_together():
        for batch in tqdm(loader, desc="scoring", disable=not progress, mininterval=0.5, dynamic_ncols=True):
            image, label = batch.image.to(device), batch.label.to(device)
            with passes.autocast():
                ids = labelled_by(segmenter, image, label.shape[-2:], multiscale)
            confusion.update(ids, label)
            images += len(image)
    confusion.matrix, images = ranks.total(confusion.matrix), _total(images)
    if images == 0:
        raise ValueError("evaluate got no pictures: the loader is empty. Check the data set's path and split.")
    return confusion, images


def area_ratios(
    segmenter: nn.Module, loader: Iterable, num_classes: int, *, device: torch.device | str | None = None, progress: bool = True
) -> Tensor:
    """How much more a network says of each class than there is, (C,) float64: predicted over true area, labelled pixels alone.

        r_c = |{p: y^_p = c, y_p known}| / |{p: y_p = c}|

    1 is the right amount, nan a class that is in no label and no prediction, inf one that is in no label. Over the stages of a
    self-training it shows which classes grow ("pseudo-label bloat"; GIST, CRV 2022). The loader gives labelled batches.
    """
    return counted(segmenter, loader, num_classes, device, progress=progress)[0].area_ratios()


def scores_of(
    confusion: Confusion,
    classes: tuple[str, ...],
    images: int,
    seconds: float,
    multiscale: bool = False,
    published: bool = True,
) -> Scores:
    """The scores of counted pixels. published: whether the classes are those that papers average over, not just as many."""
    return Scores(
        classes=classes,
        iou=tuple(confusion.iou().tolist()),
        miou=confusion.miou(),
        miou_common=confusion.miou(confusion.common()),
        shares=tuple(confusion.shares().tolist()),
        subsets={name: confusion.miou(name) for name in (confusion.subsets() if published else (str(len(classes)),))},
        accuracy=confusion.accuracy(),
        mean_accuracy=confusion.mean_accuracy(),
        images=images,
        seconds=round(seconds, 3),
        multiscale=multiscale,
    )


def labelled_by(segmenter: nn.Module, image: Tensor, size: tuple[int, int], multiscale: bool) -> Tensor:
    """The best class of each pixel of normalised pictures (N, 3, H, W), at one scale or at several: ids (N, *size)."""
    if multiscale:
        return predicted_ids(multiscale_probabilities(segmenter, image, size), size)
    return ids_of(segmenter(image), size)


def ids_of(prediction: Prediction, size: tuple[int, int]) -> Tensor:
    """The best class of each pixel of a prediction: ids (N, *size), see `predicted_ids`."""
    return predicted_ids(prediction.logits, size, prediction.align_corners)


def predicted_ids(scores: Tensor, size: tuple[int, int], align_corners: bool = True) -> Tensor:
    """The best class of each pixel: scores (N,C,h,w), upsampled to `size` (`losses.upsample`) -> ids (N,H,W).

    -1 where a score is NaN. Upsampled scores beyond `AT_ONCE` bytes are made and compared class by class: the ids are the same.
    """
    if tuple(scores.shape[-2:]) == tuple(size):
        return best_class(scores)
    N, C = scores.shape[:2]
    scores = full_precision(scores)
    if scores.element_size() * N * C * math.prod(size) <= AT_ONCE:
        return best_class(upsample(scores, tuple(size), align_corners))
    best = upsample(scores[:, :1], tuple(size), align_corners)
    ids = torch.zeros_like(best, dtype=torch.int64)
    for c in range(1, C):
        score = upsample(scores[:, c : c + 1], tuple(size), align_corners)
        ids[score > best] = c  # of equal ones the first, as argmax
        torch.maximum(best, score, out=best)  # which keeps NaN
    return torch.where(best.isnan(), -1, ids)[:, 0]


def reestimate_statistics(
    segmenter: nn.Module,
    loader: Iterable,
    *,
    device: torch.device | str | None = None,
    images: int | None = None,
    progress: bool = True,
) -> int:
    """Measure batch normalisation's running mean and variance again on given pictures; returns how many were used.

    mean_k = (1 - 1/k) mean_{k-1} + (1/k) batch mean     (likewise the variance): the plain average over k batches

    Labels are not looked at and no weight moves, so on target pictures this is adaptation by normalisation alone, the
    control "tBN" beside which a method's gain must stand. Every layer is measured behind layers that normalise with
    the current batch. Networks without batch normalisation stay as they are: a line is printed and 0 is returned.
    `images` ends an endless loader. Several processes each bring their part of the pictures; the average is over all
    their batches.

    Raises:
        ValueError: for an empty loader; the old statistics then stay.
    """
    norms = [m for m in segmenter.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        if ranks.is_main():
            print(f"{type(segmenter).__name__} has no batch normalisation: there are no statistics to re-estimate.")
        return 0
    device = network_device(segmenter, device)
    segmenter.to(device)
    before = [(norm.momentum, {name: b.clone() for name, b in norm.named_buffers()}) for norm in norms]
    seen, finished = 0, False
    with eval_mode(segmenter), torch.no_grad():
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # torch's word for the plain average
                norm.train()
                norm.alone = True  # the processes may hold different numbers of batches
            for batch in tqdm(loader, desc="statistics", disable=not progress, mininterval=0.5, dynamic_ncols=True):
                segmenter(batch.image.to(device))
                seen += len(batch.image)
                if images is not None and seen * ranks.count() >= images:
                    break
            seen = _total(seen)
            finished = seen > 0
            for norm in norms:
                _merge_statistics(norm)
        finally:
            for norm, (momentum, buffers) in zip(norms, before):
                norm.momentum, norm.alone = momentum, False
                if not finished:
                    for name, buffer in norm.named_buffers():
                        buffer.copy_(buffers[name])
    if not finished:
        raise ValueError(
            "reestimate_statistics got no pictures: the loader is empty, the statistics stay. "
            "Check the data set's path and split."
        )
    return seen


def _merge_statistics(norm: _BatchNorm) -> None:
    """The plain average over the k_r batches of every process r: mean = sum_r k_r mean_r / sum_r k_r."""
    if ranks.count() > 1:
        k = norm.num_batches_tracked.clone()
        norm.num_batches_tracked.copy_(ranks.total(k))
        for buffer in (norm.running_mean, norm.running_var):
            buffer.copy_(ranks.total(buffer * k) / norm.num_batches_tracked.clamp(min=1))


def _total(number: int) -> int:
    return int(ranks.total(torch.tensor(number)))


def network_device(network: nn.Module, device: torch.device | str | None) -> torch.device:
    """`device`, or where that is None that of the network's first parameter; the CPU for one without any."""
    if device is not None:
        return torch.device(device)
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def check_classes(segmenter: nn.Module, space: LabelSpace) -> None:
    """Raise ValueError where a network was trained for another number of classes than the space has."""
    if space.num_classes != segmenter.num_classes:
        raise ValueError(
            f"The network has {segmenter.num_classes} classes, label space '{space.title}' has {space.num_classes}. "
            "Give the space that it was trained in."
        )


def _class_names(space: int | str | LabelSpace) -> tuple[str, ...]:
    if isinstance(space, int):
        return tuple(f"class {i}" for i in range(space))
    return tuple(label_space(space).classes)


def without_nan(value):
    """None in place of nan, also in a dictionary."""
    if isinstance(value, float) and math.isnan(value):
        return None
    return {key: without_nan(v) for key, v in value.items()} if isinstance(value, dict) else value


def _percent(score: float) -> str:
    return "     -" if math.isnan(score) else f"{100 * score:6.2f}"
