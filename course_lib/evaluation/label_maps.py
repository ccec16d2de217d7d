"""Score label maps that are files: those of another program, or of `predict`.

Letters: C classes, H, W a label's size.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from course_lib.data import SegmentationDataset
from course_lib.data.examine import in_parallel
from course_lib.data.names import files_below, shared_file
from course_lib.data.pairs import Pair
from course_lib.data.reading import read_label, read_raw_label
from course_lib.evaluation.confusion import Confusion
from course_lib.evaluation.given_pictures import stem_of
from course_lib.evaluation.predict import OVERLAY
from course_lib.evaluation.scoring import Scores, scores_of, without_nan
from course_lib.files import table_text
from course_lib.labels import IGNORE, LabelSpace

KIND = "uda score"
PICTURE_ENDS = ("_leftImg8bit",)  # what a map's name may lack of its picture's ...
MAP_ENDS = ("_labels",)  # ... and may have more than it: `uda predict` writes NAME_labels.png


def score_label_maps(
    folder: Path | str, pictures: SegmentationDataset, *, workers: int | None = None, progress: bool = True
) -> tuple[Scores, Confusion]:
    """Score FOLDER/<name>.png, train ids (H,W), one for each picture of a labelled data set; also returns the table of counts.

    A map has its label's size. Id 255 is "no class": it misses the true class and is no false alarm for another.
    A picture's map is the PNG file of its name (`find_maps`). workers: threads that read, by default one a core.

    Raises:
        FileNotFoundError: for a folder or map that is missing. ValueError: for a map that belongs to no picture, is of another
        size, has ids that are no class, or is no PNG file of ids; and for labels without a labelled pixel.
    """
    began, folder = time.perf_counter(), Path(folder).expanduser()
    pictures.require_labels("Scoring")
    maps = find_maps(folder, [pair.name for pair in pictures.pairs], pictures.spec)
    pairs = [(pair, folder / maps[pair.name]) for pair in pictures.pairs]
    confusion = Confusion(pictures.space.num_classes)
    for part in in_parallel(partial(_count, pictures), pairs, "scoring", workers, progress):
        confusion.merge(part)
    if confusion.matrix.sum() + confusion.missed.sum() == 0:
        raise ValueError(f"No picture of {pictures.spec} has a labelled pixel: nothing can be scored. Choose another split.")
    seconds, published = time.perf_counter() - began, not pictures.space.own
    return scores_of(confusion, pictures.space.classes, len(pictures), seconds, published=published), confusion


def find_maps(folder: Path, names: Sequence[str], spec: str = "the data set") -> dict[str, str]:
    """{picture: its label map below `folder`}. Of picture "a/x.png" it is a/x.png or a/x_labels.png, or x.png or x_labels.png
    in `folder` itself; of Cityscapes' pictures the map's name may lack "_leftImg8bit".

    Raises as `score_label_maps`, for pictures and files that have no counterpart.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"No folder {str(folder)!r}. Give the folder with the label maps, PNG files of train ids.")
    files = [name for name in files_below(folder) if name.lower().endswith(".png") and not name.endswith(OVERLAY)]
    if not files:
        raise FileNotFoundError(f"No label maps in {str(folder)!r}, wanted *.png of train ids. Check the folder.")
    by_stem: dict[str, str] = {}
    for file in sorted(files, key=lambda file: stem_of(file) != _without(stem_of(file), MAP_ENDS)):  # x.png before x_labels.png
        for stem in (stem_of(file), _without(stem_of(file), MAP_ENDS)):
            by_stem.setdefault(stem, file)
    found: dict[str, str] = {}
    for name in names:
        wanted = [stem_of(name), _without(stem_of(name), PICTURE_ENDS)]
        wanted += [PurePosixPath(stem).name for stem in wanted]
        if (stem := next((stem for stem in wanted if stem in by_stem), None)) is not None:
            found[name] = by_stem[stem]
    if missing := [name for name in names if name not in found]:
        raise FileNotFoundError(
            f"{len(missing)} of {len(names)} pictures of {spec} have no label map in {str(folder)!r}, the first: "
            f"{missing[0]!r}, wanted {stem_of(missing[0]) + '.png'!r}. The folder has {len(files)} maps such as {files[0]!r}. "
            "Name them as their pictures; a score over fewer pictures is another score."
        )
    if problem := shared_file(found.items()):
        raise ValueError(f"{problem.partition('. ')[0]}. Put each map into a folder as its picture's.")
    if extra := sorted(set(files) - set(found.values())):
        raise ValueError(
            f"{len(extra)} of {len(files)} label maps in {str(folder)!r} belong to no picture of {spec}, the first: "
            f"{extra[0]!r}. Is it another split? Choose it (LAYOUT:PATH@SPLIT), or move those files away."
        )
    return found


def read_map(path: Path, space: LabelSpace) -> np.ndarray:
    """A label map (H,W) of train ids of `space`, or 255; ValueError that names the file for other ids."""
    ids = read_raw_label(path)
    if (stray := (ids >= space.num_classes) & (ids != IGNORE)).any():
        values, pixels = np.unique(ids[stray], return_counts=True)
        shown = ", ".join(f"{i} ({n} pixels)" for i, n in zip(values[:4], pixels[:4])) + (", ..." if len(values) > 4 else "")
        raise ValueError(
            f"Label map {str(path)!r} has ids that are no class: {shown}; it wants the train ids 0 to {space.num_classes - 1} "
            f"of {space.name}, or {IGNORE} for none. Are they raw ids (Cityscapes: 7 is road)? Map them to train ids first: "
            "course_lib.labels.lookup_table."
        )
    return ids


def scores_csv(scores: Scores, confusion: Confusion) -> str:
    """One line a class: IoU, recall and precision (fractions, empty where undefined), labelled pixels and their share."""
    columns = ("train_id", "class", "iou", "recall", "precision", "pixels", "share")
    recall, precision = (confusion.normalised(over).diagonal().tolist() for over in ("truth", "prediction"))
    pixels = (confusion.matrix.sum(1) + confusion.missed).tolist()
    numbers = zip(scores.classes, scores.iou, recall, precision, pixels, scores.shares)
    return table_text(columns, ((i, *map(without_nan, row)) for i, row in enumerate(numbers)), KIND)


def confusion_csv(scores: Scores, confusion: Confusion) -> str:
    """Pixels: a line for each true class, a column for each predicted one, and one for 255, no class."""
    rows = zip(scores.classes, confusion.matrix.tolist(), confusion.missed.tolist())
    return table_text(("true class", *scores.classes, "none"), ((name, *row, missed) for name, row, missed in rows), KIND)


def _count(pictures: SegmentationDataset, item: tuple[Pair, Path]) -> Confusion:
    """The counts of one picture."""
    pair, path = item
    truth, said = read_label(pair.label, pictures.table), read_map(path, pictures.space)
    if truth.shape != said.shape:
        sizes = [f"{ids.shape[1]}x{ids.shape[0]}" for ids in (said, truth)]
        raise ValueError(
            f"Label map {str(path)!r} is {sizes[0]}, its label {str(pair.label)!r} is {sizes[1]}. Resize logits to the label's "
            "size before argmax, or ids by the nearest neighbour."
        )
    confusion = Confusion(pictures.space.num_classes)
    confusion.update(torch.from_numpy(said), torch.from_numpy(truth))
    return confusion


def _without(stem: str, ends: tuple[str, ...]) -> str:
    for end in ends:
        stem = stem.removesuffix(end)
    return stem
