"""Write what a network is sure of on unlabelled pictures as label files, for self-training.

Letters: N pictures in a batch, C classes, h, w the network's grid, H, W the picture's own size.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from course_lib import ranks
from course_lib.data import SegmentationDataset, test_loader
from course_lib.data.names import shared_file
from course_lib.data.storing import encode_label
from course_lib.evaluation.scoring import network_device
from course_lib.files import read_json, refuse_data, write_whole
from course_lib.losses import upsample
from course_lib.losses.inputs import full_precision
from course_lib.networks.prediction import eval_mode
from course_lib.pseudo_labels import (
    ClassThresholds,
    LabelQuality,
    any_class_labels,
    confidence,
    hybrid_labels,
    picture_labels,
    threshold_labels,
)
from course_lib.terminal import shown
from course_lib.typed import SHARE, in_range

MANIFEST = "labels.json"  # written last: a folder that has it is whole
RECORD = ".labels.json"  # written first: which network's labels these are, and the files that are ours
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
        in_range(self, label_share=(1e-9, 1.0), cap=SHARE, one_threshold=(0.0, 2.0), picture_share=SHARE)


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
    continues with the files that are there, and a finished folder of the same `key` (whatever tells this network from
    another) is returned as it is. Where `pictures` have labels, density and accuracy are counted: nothing else looks at them.
    Several processes each write their part.

    A folder of another key loses the files that its record (`RECORD`) names, and no others. Raises ValueError where OUT holds
    anything without such a record, or a file of the user under a name that a label would get; where it lies in or around a
    folder of the pictures; and for two pictures that would share one label file (a.png, a.jpg).

    Source: ProCA (ECCV 2022), "Class-wise adaptive Pseudo-Label Thresholds"; sizes of its released code. With picture_share:
    BiDA (ECCV 2022), static labels, which its release takes from CCM (ECCV 2020).
    """
    out, C = Path(out).expanduser(), pictures.space.num_classes
    names = _label_names(pictures)
    described = [key, asdict(settings), hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest()]
    found = _labels_there(out, pictures, names)  # by every process, so that all of them stop at an error
    ranks.barrier()  # no process writes before all have checked the folder
    found = ranks.agree(found)
    if found == described and (out / MANIFEST).is_file():
        return read_labels(out)
    device = network_device(segmenter, device)
    segmenter.to(device)
    look = _Look(segmenter, pictures, device, progress, workers)
    with eval_mode(segmenter), torch.no_grad():
        thresholds = _thresholds(look, C, settings, device)
        if ranks.is_main() and found != described:  # labels of another network
            forget_labels(out)
            write_whole(out / RECORD, json.dumps({"made_by": "uda label", "labels_of": described, "files": list(names)}))
        ranks.barrier()
        quality, labelled = LabelQuality(C, device), torch.zeros(C + 1, dtype=torch.int64, device=device)
        for logits, size, truth, name in look(f"labels for {shown(out.name)}"):
            label = _labels(logits, size, look.align_corners, thresholds, settings)
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


class Quality(TypedDict):
    """`quality_content` as it is read again."""

    density: float | None
    accuracy: float | None
    class_density: list[float | None]
    class_accuracy: list[float | None]


class LabelsContent(TypedDict):
    """The manifest of a folder of pseudo-labels."""

    pictures: int
    settings: dict[str, float | bool | None]
    classes: list[str]
    thresholds: list[float]
    labelled: float
    class_share: list[float]
    quality: Quality | None


def read_labels(folder: Path) -> dict[str, Any]:
    """The manifest of a folder of pseudo-labels; ValueError that names a file of other types (`files.read_json`)."""
    return read_json(folder / MANIFEST, LabelsContent)


def _label_names(pictures: SegmentationDataset) -> dict[str, None]:
    """The label file of every picture, relative to the folder; ValueError if two pictures would share one."""
    names = [pictures.name_of(i) for i in range(len(pictures))]
    labels = [Path(name).with_suffix(".png").as_posix() for name in names]
    if problem := shared_file(zip(names, labels)):
        raise ValueError(problem)
    return dict.fromkeys(labels)


def _labels_there(out: Path, pictures: SegmentationDataset, names: dict[str, None]) -> list[Any] | None:
    """What the labels in `out` were made of, None for a new folder; ValueError where writing would lose foreign files."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {str(out)!r} is a file; labels go to a folder. Give a new or an empty folder.")
    refuse_data(out, {path.parent for pair in pictures.pairs for path in (pair.image, pair.label) if path is not None})
    record = _read_record(out)
    if record is None and out.is_dir() and (there := sorted(path.name for path in out.iterdir())):
        raise ValueError(
            f"The folder {str(out)!r} holds other files ({', '.join(there[:3])}), and no record of labels that `uda label` "
            "wrote. Give --out a new or an empty folder."
        )
    ours = _recorded(out)
    if foreign := [name for name in names if name not in ours and os.path.lexists(out / name)]:
        raise ValueError(
            f"{str(out / foreign[0])!r} was not written by `uda label`, and a label would get its name ({len(foreign)} such "
            "files). Give --out another folder."
        )
    return None if record is None else record["labels_of"]


def forget_labels(out: Path) -> None:
    """Remove the labels that the record of the folder `out` names, the manifest and the record; no other file."""
    if _read_record(out) is not None:
        files = [out / name for name in (MANIFEST, *_recorded(out), RECORD)]
        for path in files:
            path.unlink(missing_ok=True)
        for folder in sorted({path.parent for path in files} - {out}, reverse=True):
            with suppress(OSError):  # not empty
                folder.rmdir()


def _read_record(out: Path) -> dict[str, Any] | None:
    try:
        record = read_json(out / RECORD)
    except (OSError, ValueError):
        return None
    return record if {"made_by", "labels_of", "files"} <= record.keys() else None


def _recorded(out: Path) -> set[str]:
    """The label files that the record names; of a record that somebody has changed, those that lie in the folder itself."""
    record, root = _read_record(out), out.resolve()
    names = record["files"] if record is not None and isinstance(record["files"], list) else []
    return {
        name for name in names
        if isinstance(name, str) and name.endswith(".png") and (out / name).parent.resolve().is_relative_to(root)
    }  # fmt: skip


class _Look:
    """The network's logits for every picture of this process, one at a time, computed once if all fit into memory."""

    def __init__(
        self, segmenter: nn.Module, pictures: SegmentationDataset, device: torch.device, progress: bool, workers: int
    ) -> None:
        self.segmenter, self.pictures, self.device, self.progress = segmenter, pictures, device, progress
        self.loader = test_loader(pictures, workers=workers, rank=ranks.rank(), ranks=ranks.count())
        self.kept: list[Tensor] | None = []
        self.full = False
        self.align_corners = True  # of the network's predictions

    def __call__(self, description: str) -> Iterator[tuple[Tensor, tuple[int, int], Tensor, str]]:
        """(logits (1, C, h, w), the picture's size, its truth (1, H, W), its name)."""
        hide = not self.progress or not ranks.is_main()
        for k, batch in enumerate(tqdm(self.loader, desc=description, disable=hide, mininterval=0.5, dynamic_ncols=True)):
            if self.full:
                logits = self.kept[k].to(self.device)
            else:
                prediction = self.segmenter(batch.image.to(self.device))
                logits, self.align_corners = full_precision(prediction.logits), prediction.align_corners
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
        search.add(*confidence(upsample(logits, look.size, look.align_corners)))
    search.narrow()
    for logits, *_ in look("thresholds"):
        search.add(*confidence(upsample(logits, look.size, look.align_corners)))
    return search.thresholds()


def _labels(
    logits: Tensor, size: tuple[int, int], align_corners: bool, thresholds: Tensor, settings: PseudoLabelSettings
) -> Tensor:
    """(1, C, h, w) -> (1, H, W) train ids, 255 where not sure."""
    up = upsample(logits, size, align_corners)
    sure, prediction = confidence(up)
    if settings.any_class:
        labels = any_class_labels(torch.softmax(up, dim=1), thresholds)
    else:
        labels = threshold_labels(sure, prediction, thresholds)
    if settings.picture_share:
        labels = hybrid_labels(labels, picture_labels(sure, prediction, settings.picture_share))
    return labels


def quality_content(quality: LabelQuality) -> dict[str, Any]:
    """As plain numbers, None for nan: what `json.dump` writes."""
    def plain(values: Tensor) -> list[float | None]:
        return [None if value != value else value for value in values.tolist()]

    return {
        "density": quality.density, "accuracy": plain(torch.tensor([quality.accuracy]))[0],
        "class_density": plain(quality.class_density), "class_accuracy": plain(quality.class_accuracy),
    }  # fmt: skip
