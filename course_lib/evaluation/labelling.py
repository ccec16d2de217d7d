"""Write what a network is sure of on unlabelled pictures as label files, for self-training.

Letters: N pictures in a batch, C classes, h, w the network's grid, H, W the picture's own size.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from course_lib import ranks
from course_lib.data import SegmentationDataset, test_loader
from course_lib.data.storing import encode_label
from course_lib.evaluation.scoring import eval_mode, network_device
from course_lib.files import write_whole
from course_lib.pseudo_labels import (
    ClassThresholds,
    LabelQuality,
    any_class_labels,
    confidence,
    hybrid_labels,
    picture_labels,
    threshold_labels,
)

MANIFEST = "labels.json"  # written last: a folder that has it is whole
CACHE = 2 * 2**30  # bytes of logits that are kept between the two passes, if all fit; else the network looks twice


@dataclass(frozen=True)
class PseudoLabelSettings:
    """Which predictions become labels; defaults: ProCA's release (Ada-ST)."""

    label_share: float = 0.4  # share of the pixels of each class; [code] 1 - THRESHOLD_PERCENT
    cap: float = 0.9  # no threshold is higher: easy classes keep everything from here on; [code]
    one_threshold: float | None = None  # the same threshold for all classes instead: what Ada-ST is compared with
    picture_share: float = 0.0  # also the surest share of every picture, whatever the class; [code] of BiDA, after CCM: 0.1
    any_class: bool = False  # keep a pixel when ANY class reaches its threshold; [code] of BiDA: a leak

    def __post_init__(self) -> None:
        if not (0 < self.label_share <= 1 and 0 <= self.cap <= 1 and 0 <= self.picture_share <= 1):
            raise ValueError(
                f"label_share is {self.label_share}, cap is {self.cap} and picture_share {self.picture_share}; all are shares, "
                "0 to 1, and label_share is above 0."
            )


def write_pseudo_labels(
    segmenter: nn.Module,
    pictures: SegmentationDataset,
    out: Path | str,
    settings: PseudoLabelSettings = PseudoLabelSettings(),
    *,
    key: str = "",
    device: torch.device | str | None = None,
    progress: bool = True,
    workers: int = 0,
) -> dict[str, Any]:
    """Write OUT/<name>.png, train ids with 255 where the network is not sure, for every picture; returns the manifest.

        t_c    = the confidence that a share `label_share` of all pixels predicted as c reaches, at most `cap`        (pass 1)
        y(p)   = c if max softmax up(logits)(p) >= t_c, c the predicted class; else 255                        (pass 2)
                 or if p is among the surest `picture_share` of its picture

    Thresholds are found at the network's input size, labels written at each picture's own, both exactly and with memory
    that does not grow with the number of pictures beyond the logits that are kept (`CACHE`). Every file is whole; a killed run
    goes on with the files that are there, and a finished folder of the same `key` (whatever tells this network from
    another) is returned as it is. Where `pictures` have labels, density and accuracy are counted: nothing else looks at them.
    Several processes each write their part.

    Source: ProCA (ECCV 2022), "Class-wise adaptive Pseudo-Label Thresholds"; sizes of its released code. With picture_share:
    BiDA (ECCV 2022), static labels, which its release takes from CCM (ECCV 2020).
    """
    out, C = Path(out), pictures.space.num_classes
    names = hashlib.sha256("\n".join(map(pictures.name_of, range(len(pictures)))).encode(errors="surrogateescape"))
    key_file, wanted = out / ".key", json.dumps([key, asdict(settings), names.hexdigest()])
    found = ranks.agree(key_file.read_text(encoding="utf-8") if ranks.is_main() and key_file.is_file() else None)
    if found == wanted and (out / MANIFEST).is_file():
        return json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    device = network_device(segmenter, device)
    segmenter.to(device)
    look = _Look(segmenter, pictures, device, progress, workers)
    with eval_mode(segmenter), torch.no_grad():
        thresholds = _thresholds(look, C, settings, device)
        if ranks.is_main() and found != wanted:  # files of another network
            for path in [out / MANIFEST, *out.rglob("*.png")] if out.is_dir() else []:
                path.unlink(missing_ok=True)
            write_whole(key_file, wanted)
        ranks.barrier()
        quality, labelled = LabelQuality(C, device), torch.zeros(C + 1, dtype=torch.int64, device=device)
        for logits, size, truth, name in look(f"labels for {out.name}"):
            label = _labels(logits, size, thresholds, settings)
            quality.add(label, truth.to(device))
            labelled += torch.bincount(label.clamp(max=C).flatten(), minlength=C + 1)
            path = out / Path(name).with_suffix(".png")
            if not path.exists():
                write_whole(path, encode_label(label[0].cpu().to(torch.uint8), pictures.space), sync=False)
    quality, labelled = quality.total(), ranks.total(labelled)
    content = {
        "pictures": len(pictures), "settings": asdict(settings), "classes": list(pictures.space.classes),
        "thresholds": thresholds.tolist(),
        "labelled": (labelled[:C].sum() / labelled.sum()).item(),  # of all pixels, whatever the truth
        "class_share": (labelled[:C] / labelled.sum()).tolist(),
        "quality": quality_content(quality) if pictures.labelled else None,
    }  # fmt: skip
    if ranks.is_main():
        write_whole(out / MANIFEST, json.dumps(content, indent=1) + "\n")
    ranks.barrier()
    return content


class _Look:
    """The network's logits for every picture of this process, one at a time: asked once if they fit into memory, else again."""

    def __init__(
        self, segmenter: nn.Module, pictures: SegmentationDataset, device: torch.device, progress: bool, workers: int
    ) -> None:
        self.segmenter, self.pictures, self.device, self.progress = segmenter, pictures, device, progress
        self.loader = test_loader(pictures, workers=workers, rank=ranks.rank(), ranks=ranks.count())
        self.kept: list[Tensor] | None = []
        self.full = False

    def __call__(self, description: str) -> Iterator[tuple[Tensor, tuple[int, int], Tensor, str]]:
        """(logits (1, C, h, w), the picture's size, its truth (1, H, W), its name)."""
        hide = not self.progress or not ranks.is_main()
        for k, batch in enumerate(tqdm(self.loader, desc=description, disable=hide, mininterval=0.5, dynamic_ncols=True)):
            if self.full:
                logits = self.kept[k].to(self.device)
            else:
                logits = self.segmenter(batch.image.to(self.device)).logits.float()
                if self.kept is not None:
                    self.kept.append(logits.cpu())
                    if logits.numel() * logits.element_size() * len(self.loader) > CACHE:
                        self.kept = None
            self.size = tuple(batch.image.shape[-2:])
            yield logits, tuple(batch.label.shape[-2:]), batch.label, batch.name[0]
        self.full = self.kept is not None


def _thresholds(look: _Look, C: int, settings: PseudoLabelSettings, device: torch.device) -> Tensor:
    if settings.one_threshold is not None:
        return torch.full((C,), float(settings.one_threshold))
    search = ClassThresholds(C, 1 - settings.label_share, settings.cap, device)
    for logits, *_ in look("confidences"):
        search.add(*confidence(_up(logits, look.size)))
    search.narrow()
    for logits, *_ in look("thresholds"):
        search.add(*confidence(_up(logits, look.size)))
    return search.thresholds()


def _labels(logits: Tensor, size: tuple[int, int], thresholds: Tensor, settings: PseudoLabelSettings) -> Tensor:
    """(1, C, h, w) -> (1, H, W) train ids, 255 where not sure."""
    up = _up(logits, size)
    sure, prediction = confidence(up)
    if settings.any_class:
        labels = any_class_labels(torch.softmax(up.float(), dim=1), thresholds)
    else:
        labels = threshold_labels(sure, prediction, thresholds)
    if settings.picture_share:
        labels = hybrid_labels(labels, picture_labels(sure, prediction, settings.picture_share))
    return labels


def _up(logits: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=True)


def quality_content(quality: LabelQuality) -> dict[str, Any]:
    """As plain numbers, None for nan: what `json.dump` writes."""
    def plain(values: Tensor) -> list[float | None]:
        return [None if value != value else value for value in values.tolist()]

    return {
        "density": quality.density, "accuracy": plain(torch.tensor([quality.accuracy]))[0],
        "class_density": plain(quality.class_density), "class_accuracy": plain(quality.class_accuracy),
    }  # fmt: skip
