"""How `uda data prepare` should store pictures and labels: time, room and loss; and how much faster training then reads.

    python -m benchmarks.prepared_storage [--pictures 8] [--out benchmarks/results/prepared_storage.md]

MiniStreet drawn at GTA5's 1914x1052, in GTA5's folders and encodings, brought to 1280x720. The game look is smoother than the
real game, the camera look noisier: GTA5's own pictures have 2.26 MB (the archives' 56.35 GB over 24,966), between the two. CPU
time of one thread; of several rounds the fastest, files in the system's cache.

Chosen. Pictures: JPEG 95 with colours at full resolution: 43 dB from the original, and a pair is read more than five times as
fast. Halving the resolution of colours (4:2:0) saves little room and errs most where a coloured thing begins. Without loss:
WebP, quicker to read than any PNG that is compressed and about as small as the best; a PNG that is not compressed takes more
than twice the room. Labels: palette PNG of level 1. Pillow filters no rows of a palette picture, so there is nothing to undo:
little more than half the time of grey.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image, features

from benchmarks.measuring import hand_over
from course_lib.data import open_dataset, prepare, train_transform
from course_lib.data.layouts import find_pairs, label_table
from course_lib.data.ministreet import make
from course_lib.data.pairs import Pair
from course_lib.data.published import PICTURES as PUBLISHED
from course_lib.data.reading import read_image, read_label, read_pair
from course_lib.data.storing import encode_label, stored_table
from course_lib.data.transforms import resize

ORIGINAL, SIZE = (1052, 1914), (720, 1280)
GTA5 = PUBLISHED["gta5"]["train"]
PICTURES = {
    "PNG, not compressed": {"format": "PNG", "compress_level": 0},
    "PNG, level 1": {"format": "PNG", "compress_level": 1},
    "PNG, level 6": {"format": "PNG", "compress_level": 6},
    "WebP, lossless": {"format": "WEBP", "lossless": True, "quality": 0, "method": 0},
    "JPEG 90, 4:4:4": {"format": "JPEG", "quality": 90, "subsampling": 0},
    "JPEG 95, 4:2:0": {"format": "JPEG", "quality": 95, "subsampling": 2},
    "JPEG 95, 4:4:4": {"format": "JPEG", "quality": 95, "subsampling": 0},
    "JPEG 98, 4:4:4": {"format": "JPEG", "quality": 98, "subsampling": 0},
}
LABELS = {f"{kind} PNG, level {level}": (kind, level) for kind in ("grey", "palette") for level in (1, 6, 9)}


def milliseconds(work: Callable[[int], object], count: int, rounds: int = 5) -> float:
    """CPU time of `work(0)` ... `work(count - 1)` for one of them, in the fastest round."""
    times = []
    for _ in range(rounds):
        began = time.process_time()
        for i in range(count):
            work(i)
        times.append((time.process_time() - began) / count)
    return 1e3 * min(times)


def picture_row(images: list[torch.Tensor], options: dict, folder: Path) -> tuple[float, ...]:
    """MB, ms to write, ms to read, decibels of signal over noise, largest difference."""
    arrays = [image.permute(1, 2, 0).contiguous().numpy() for image in images]
    paths = [folder / f"{i}.{options['format'].lower()}" for i in range(len(images))]
    write = milliseconds(lambda i: Image.fromarray(arrays[i]).save(paths[i], **options), len(images), rounds=1)
    read = milliseconds(lambda i: read_image(paths[i]), len(images))
    errors = np.stack([read_image(path).permute(1, 2, 0).numpy().astype(int) - a for path, a in zip(paths, arrays)])
    noise = (errors**2).mean()
    decibels = 10 * np.log10(255**2 / noise) if noise else np.inf
    return np.mean([path.stat().st_size for path in paths]) / 1e6, write, read, decibels, np.abs(errors).max()


def label_row(labels: list[torch.Tensor], kind: str, level: int, folder: Path) -> tuple[float, ...]:
    """kB, ms to write, ms to read as train ids."""
    paths = [folder / f"label{i}.png" for i in range(len(labels))]

    def save(i: int) -> None:
        picture = Image.fromarray(labels[i].numpy())
        if kind == "palette":
            picture.putpalette(list(range(256)) * 3)
        picture.save(paths[i], compress_level=level, **({"bits": 8} if kind == "palette" else {}))

    write = milliseconds(save, len(labels), rounds=1)
    table = stored_table("cityscapes19", "cityscapes19")
    read = milliseconds(lambda i: read_label(paths[i], table), len(labels))
    return np.mean([path.stat().st_size for path in paths]) / 1e3, write, read


def reading_rows(root: Path, folder: Path) -> list[str]:
    """Originals decoded and resized, beside what `prepare` makes of them; then with all that a training does."""
    direct = open_dataset(f"gta5:{root}")
    first = milliseconds(lambda i: resize(*direct.read(i)[:2], SIZE), len(direct))
    whole = train_transform(SIZE, "imagenet")
    first_whole = milliseconds(lambda i: whole(direct.read(i)), len(direct))
    rows = [f"| originals, decoded and resized | {1e3 / first:.0f} | 1.0 | {1e3 / first_whole:.0f} | 1.0 |"]
    for images in ("jpeg", "lossless"):
        prepare(f"gta5:{root}", folder / images, SIZE, images=images, workers=1, progress=False)
        small = open_dataset(f"prepared:{folder / images}")
        read = milliseconds(lambda i: resize(*small.read(i)[:2], SIZE), len(small))  # noqa: B023
        read_whole = milliseconds(lambda i: whole(small.read(i)), len(small))  # noqa: B023
        rows.append(f"| prepared, `--images {images}` | {1e3 / read:.0f} | {first / read:.1f} | {1e3 / read_whole:.0f} | "
                    f"{first_whole / read_whole:.1f} |")  # fmt: skip
    return rows


def tables(pairs: list[Pair], root: Path, look: str, folder: Path) -> list[str]:
    """The three tables of one look."""
    table = label_table("gta5", root, "train", "cityscapes19")
    read = (read_pair(pair.image, pair.label, table) for pair in pairs)
    images, labels = zip(*(resize(pair.image, pair.label, SIZE) for pair in read))
    size = np.mean([pair.image.stat().st_size for pair in pairs]) / 1e6
    lines = [f"## {look} look: {len(pairs)} originals of {size:.2f} MB", ""]
    lines += [f"| picture of 1280x720 | MB | GB for {GTA5} | ms to write | ms to read | PSNR dB | largest difference |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for name, options in PICTURES.items():
        room, write, read, decibels, most = picture_row(images, options, folder)
        costs = f"{room:.2f} | {room * GTA5 / 1e3:.0f} | {write:.0f} | {read:.1f}"
        lines.append(f"| {name} | {costs} | {decibels:.1f} | {most} |")
    lines += ["", "| label of 1280x720 | kB | ms to write | ms to read |", "|---|---|---|---|"]
    for name, (kind, level) in LABELS.items():
        room, write, read = label_row(labels, kind, level, folder)
        lines.append(f"| {name} | {room:.0f} | {write:.1f} | {read:.2f} |")
    stored = sum(len(encode_label(label, "cityscapes19")) for label in labels) / len(labels) / 1e3
    lines += ["", f"(`prepare` writes labels as palette PNG of level 1: {stored:.0f} kB.)", ""]
    lines += ["| pairs read by one core | per second | times | with normalising | times |", "|---|---|---|---|---|"]
    return [*lines, *reading_rows(root, folder), ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    command = f"`python -m benchmarks.prepared_storage --pictures {arguments.pictures}`"
    codecs = ", ".join(f"{name} {features.version(name)}" for name in ("libjpeg_turbo", "zlib_ng", "webp"))
    versions = f"Pillow {PIL.__version__} ({codecs}), torch {torch.__version__}."
    about, chosen = (" ".join(part.split()) for part in __doc__.split("\n\n")[2:])
    lines = ["# How prepared pictures are stored", "", command, "", about, "", chosen, "", versions, ""]
    for look in ("game", "camera"):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            root = make("gta5", folder / "original", arguments.pictures, 1, size=ORIGINAL, look=look, workers=1, progress=False)
            lines += tables(find_pairs("gta5", root), root, look, folder)
    hand_over(lines[:-1], arguments.out)


if __name__ == "__main__":
    main()
