"""How much do frozen features know? A linear classifier and nearest neighbours on them, from folders of classes.

Letters: F pictures, C classes, D features.

    FOLDER/train/<class>/*.png   the labelled pictures        FOLDER/test/<class>/*.png   the pictures that are scored

The backbone stays as it is (eval mode, no gradient) and looks at every picture once. What is reported is the classifier
after its last epoch: the best epoch on the test pictures, often reported, is chosen by their labels.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.data import NORMALISATIONS
from course_lib.data.bits import BITS, check_bits
from course_lib.data.names import PICTURES
from course_lib.data.reading import read_image
from course_lib.data.transforms import resize_image
from course_lib.evaluation.scoring import network_device
from course_lib.losses.inputs import checked_temperature, full_precision, train_ids
from course_lib.networks import pooled
from course_lib.networks.prediction import eval_mode
from course_lib.terminal import shown


class ClassPictures(NamedTuple):
    """Pictures of C classes: image (F, 3, H, W) uint8, label (F,) int64, the classes' names in the order of the labels."""

    image: Tensor
    label: Tensor
    classes: tuple[str, ...]


@dataclass(frozen=True)
class ProbeSettings:
    """How the two classifiers work. Defaults: the published ones on ImageNet, where not said otherwise."""

    epochs: int = 90  # over 1.3 million pictures; a few hundred pictures want more (an epoch may be one step)
    lr: float = 0.1  # times batch / 256; SGD, cosine to zero, no warm-up
    batch_size: int = 256
    momentum: float = 0.9
    weight_decay: float = 0.0  # CIFAR and lightly; ImageNet: 1e-6
    standardise: bool = True  # ours: features to mean 0, deviation 1, so that one rate fits all networks
    neighbours: int = 200  # k
    temperature: float = 0.1  # T: a neighbour of cosine s votes with exp(s / T)


@dataclass(frozen=True)
class ProbeScores:
    """Accuracies on the test pictures, fractions 0 to 1."""

    linear: float  # after the last epoch
    linear_train: float  # on the labelled pictures themselves
    knn: float
    per_class: dict[str, float]  # of the linear classifier
    labelled: int
    tested: int
    settings: dict

    def to_dict(self) -> dict:
        """Its fields, for JSON."""
        return asdict(self)

    def table(self) -> str:
        """In percent, for a terminal."""
        per_class = {shown(name): value for name, value in self.per_class.items()}
        width = max(map(len, (*per_class, "nearest neighbours")))
        lines = [f"{name:<{width}}  {100 * value:6.2f}" for name, value in per_class.items()]
        lines += ["-" * (width + 8), f"{'linear probe':<{width}}  {100 * self.linear:6.2f}"]
        lines += [f"{'nearest neighbours':<{width}}  {100 * self.knn:6.2f}"]
        return "\n".join(lines + [f"{self.labelled} labelled pictures, {self.tested} tested; last epoch"])


def read_classes(
    folder: Path | str, size: int | None = None, classes: tuple[str, ...] | None = None, bits: int = BITS
) -> ClassPictures:
    """Read FOLDER/<class>/*.png (or .jpg, .webp, ...); `size`: resized to size x size, else all must be of one size.

    `classes` fixes the names and their order (a test folder must have those of the training folder). `bits`: as in
    `open_dataset`.
    """
    check_bits(bits)
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"No folder {str(folder)!r}. Wanted one folder per class in it, with pictures.")
    inside = [p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    found = {p.name: sorted(f for f in p.iterdir() if f.suffix.lower() in PICTURES) for p in inside}
    found = {name: files for name, files in found.items() if files}
    if len(found) < 2 or (classes is not None and tuple(found) != tuple(classes)):
        wanted = "at least two folders with pictures, one per class" if classes is None else ", ".join(classes)
        raise ValueError(f"{str(folder)!r} has the class folders {', '.join(found) or 'none'}; wanted {wanted}.")
    images, labels = [], []
    for label, files in enumerate(found.values()):
        for path in files:
            image = read_image(path, bits)
            image = image if size is None else resize_image(image, (size, size))
            if images and image.shape != images[0].shape:
                raise ValueError(
                    f"{str(path)!r} is {image.shape[2]}x{image.shape[1]}, the pictures before it "
                    f"{images[0].shape[2]}x{images[0].shape[1]}. Give a size, to which all are resized."
                )
            images.append(image)
            labels.append(label)
    return ClassPictures(torch.stack(images), torch.tensor(labels), tuple(found))


def pooled_features(segmenter: nn.Module, images: Tensor, *, device=None, batch_size: int = 256) -> Tensor:
    """h: uint8 pictures (F, 3, H, W) -> features averaged over the grid (F, D), on the CPU."""
    device = network_device(segmenter, device)
    segmenter.to(device)
    normalise = NORMALISATIONS[segmenter.normalisation].normalise
    with eval_mode(segmenter), torch.no_grad():
        return torch.cat([pooled(segmenter(normalise(x.to(device))).features).cpu() for x in images.split(batch_size)])


def linear_probe(
    h: Tensor, y: Tensor, classes: int, settings: ProbeSettings = ProbeSettings(), seed: int = 0
) -> nn.Linear:
    """Train a linear classifier on features h (F, D) with labels y (F,): SGD, cross-entropy, from zero weights.

    Half precision is computed in float32, float64 in float64. One picture alone has no deviation, so its features say nothing.
    """
    h, y = _checked(h, y, classes)
    if settings.standardise:
        mean, scale = h.mean(0), 1 / h.std(0, correction=min(1, len(h) - 1)).clamp(min=1e-6)
    else:
        mean, scale = h.new_zeros(()), h.new_ones(())
    x = (h - mean) * scale
    layer = nn.Linear(h.shape[1], classes, dtype=h.dtype)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    batch = min(settings.batch_size, len(x))
    optimiser = torch.optim.SGD(
        layer.parameters(), lr=settings.lr * batch / 256, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.epochs)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(settings.epochs):
        for rows in torch.randperm(len(x), generator=generator).split(batch):
            optimiser.zero_grad(set_to_none=True)
            F.cross_entropy(layer(x[rows]), y[rows]).backward()
            optimiser.step()
        schedule.step()
    with torch.no_grad():  # the standardisation goes into the weights: the classifier takes plain features
        layer.weight.mul_(scale)
        layer.bias.sub_(layer.weight @ (mean if mean.ndim else mean.expand(h.shape[1])))
    return layer.requires_grad_(False)


def knn(h: Tensor, y: Tensor, queries: Tensor, classes: int, k: int = 200, temperature: float = 0.1) -> Tensor:
    """The class of each query (Q, D) by its k nearest labelled features h (F, D), in cosine similarity s:

        argmax_c  sum over the k nearest i with y_i = c of exp(s_i / T)            (Wu et al. 2018; ties: the lower class)

    Half precision is computed in float32, float64 in float64.
    """
    h, y = _checked(h, y, classes)
    if queries.ndim != 2 or queries.shape[1] != h.shape[1]:
        raise ValueError(f"Got queries {tuple(queries.shape)}; wanted (Q, {h.shape[1]}), as long as the labelled features.")
    if k < 1:
        raise ValueError(f"k is {k}; it is the number of neighbours that vote: 1 or more.")
    temperature = checked_temperature(temperature)
    q = _finite(queries, "queries").to(h.dtype)
    s, nearest = (F.normalize(q, dim=1) @ F.normalize(h, dim=1).T).topk(min(k, len(h)), dim=1)
    weight = ((s - s[:, :1]) / temperature).exp()  # the nearest votes with 1: not all votes are 0, whatever T is
    votes = torch.zeros(len(q), classes, dtype=s.dtype, device=s.device).scatter_add_(1, y[nearest], weight)
    return votes.argmax(1)


def probe(
    segmenter: nn.Module,
    train: ClassPictures,
    test: ClassPictures,
    settings: ProbeSettings = ProbeSettings(),
    *,
    device: torch.device | str | None = None,
    seed: int = 0,
) -> ProbeScores:
    """Linear probe and nearest neighbours on the frozen features of `segmenter`."""
    if train.classes != test.classes:
        raise ValueError(f"Labelled pictures have the classes {train.classes}, test pictures {test.classes}; wanted the same.")
    C = len(train.classes)
    h, q = (pooled_features(segmenter, pictures.image, device=device) for pictures in (train, test))
    layer = linear_probe(h, train.label, C, settings, seed)
    right = layer(q).argmax(1) == test.label
    neighbours = knn(h, train.label, q, C, settings.neighbours, settings.temperature)
    return ProbeScores(
        linear=right.float().mean().item(),
        linear_train=(layer(h).argmax(1) == train.label).float().mean().item(),
        knn=(neighbours == test.label).float().mean().item(),
        per_class={name: right[test.label == c].float().mean().item() for c, name in enumerate(test.classes)},
        labelled=len(train.label),
        tested=len(test.label),
        settings=asdict(settings),
    )


def _checked(h: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Labelled features in full precision, and their labels as int64."""
    if h.ndim != 2 or y.shape != h.shape[:1]:
        raise ValueError(f"Got features {tuple(h.shape)} and labels {tuple(y.shape)}; wanted (F, D) and (F,) with the same F.")
    if 0 in h.shape:
        raise ValueError(f"Got features {tuple(h.shape)}; wanted at least one labelled picture and one number for each.")
    return _finite(h, "features"), train_ids(y, classes, ignore_index=None)


def _finite(h: Tensor, what: str) -> Tensor:
    """In full precision."""
    if not torch.isfinite(h).all():
        raise ValueError(f"Some {what} are not finite numbers: the network is broken. Look at its training log.")
    return full_precision(h)
