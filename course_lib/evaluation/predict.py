"""Label a user's own pictures: a map of train ids and a coloured overlay beside each other.

Letters: H, W the picture's own size, C classes.
"""

import io
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as TF
from tqdm.auto import tqdm

from course_lib.data import Sample, test_transform
from course_lib.data.bits import BITS, check_bits, depth_note
from course_lib.data.reading import BadPicture, ReadPair, read_pair
from course_lib.engine.precision import Precision
from course_lib.evaluation.given_pictures import given_pictures
from course_lib.evaluation.scoring import check_classes, labelled_by, network_device
from course_lib.files import mark, refuse_foreign, write_result
from course_lib.labels import IGNORE, LabelSpace, colourise, label_space
from course_lib.networks.prediction import eval_mode
from course_lib.terminal import print

KIND = "uda predict"
MOST = 4 * 2**30  # bytes of probabilities of all classes at several scales, three maps of a picture's own size
LABELS, OVERLAY = "_labels.png", "_overlay.png"  # endings of results
PATIENCE = 2.0  # seconds before a bar is worth showing


def predict(
    segmenter: nn.Module,
    images: Iterable[str | Path],
    out: str | Path,
    space: str | LabelSpace = "cityscapes19",
    *,
    size: tuple[int, int] | None = None,
    device: torch.device | str | None = None,
    multiscale: bool = False,
    precision: str = "fp32",
    opacity: float = 0.5,
    bits: int = BITS,
    skip_bad: bool = False,
    replace: bool = False,
    progress: bool = True,
) -> list[Path]:
    """Write <name>_labels.png (train ids, coloured by a palette) and <name>_overlay.png for each picture into `out`.

    `images`: files and folders; what lies below a folder keeps its place below `out`, and <name> is the file's name without its
    ending, with it where two would be the same (`given_pictures`). With `skip_bad` a file that cannot be read as a picture is
    left out and named, instead of an error.

    Both results have the picture's own size, upright. `size` (H,W) is what the network sees; None shows it the picture as it
    is, which on a telephone's photograph takes time and memory. `bits`: as in `course_lib.data.open_dataset`. `opacity` is that
    of the colours over the picture. A file is complete when it appears: it is written under another name first. `progress`: a
    bar after two seconds, and notes on stderr. Returns the written paths. Files that an earlier call wrote are replaced; other
    files of these names only with `replace`, and never one of `images`.

    Raises:
        FileNotFoundError: for a picture that is not there, or a folder without any. ValueError: for a file that is no picture,
        for two pictures of one name, for a network that gives NaN, and for a space that the network was not trained for.
        FileExistsError, before any work: for a file in `out` that would be overwritten and is not of an earlier call.
    """
    space, out = label_space(space), Path(out).expanduser()
    check_classes(segmenter, space)
    if not 0 <= opacity <= 1:
        raise ValueError(f"predict got opacity={opacity}; it wants 0 (picture alone) to 1 (colours alone).")
    check_bits(bits)
    paths = [Path(path).expanduser() for path in images]
    if not paths:
        raise ValueError("predict got no pictures. Give at least one file or folder.")
    given, notes = given_pictures(paths, KIND)
    read_too = {place for picture in given if (place := _place(picture.path)) is not None}
    for _, name in given:
        for ending in (LABELS, OVERLAY):
            result = out / f"{name}{ending}"
            refuse_foreign(result, KIND, replace, reading=[result] if _place(result) in read_too else ())
    device = network_device(segmenter, device)
    passes = Precision(precision, device)
    segmenter.to(device)
    out.mkdir(parents=True, exist_ok=True)
    written, bad, largest = [], [], None
    bar = tqdm(given, desc="labelling", disable=not progress, delay=PATIENCE, mininterval=0.5, dynamic_ncols=True)
    with eval_mode(segmenter), torch.no_grad():
        for path, name in bar:
            try:
                read = read_picture(path, bits)
            except (ValueError, OSError) as error:
                if not skip_bad:
                    raise
                bad.append(f"left out: {error}")
                continue
            picture = Image.fromarray(read.image.permute(1, 2, 0).numpy())
            largest = max((value for value in (largest, read.largest) if value is not None), default=None)
            image = _network_input(picture, size, segmenter.normalisation, str(path)).to(device)
            own_size = (picture.height, picture.width)
            if multiscale and 3 * 4 * space.num_classes * picture.height * picture.width > MOST:
                raise ValueError(
                    f"{path} has {picture.height * picture.width / 1e6:.0f} megapixels; at several scales at most "
                    f"{MOST / (3 * 4e6 * space.num_classes):.0f} of {space.num_classes} classes fit into memory. Make it "
                    "smaller, or leave out multiscale."
                )
            with passes.autocast():
                ids = labelled_by(segmenter, image, own_size, multiscale)
            label = ids[0].to(torch.int16).cpu().numpy()
            if label.min() < 0:
                raise ValueError(f"The network gives NaN for {path}: its training diverged. Take another checkpoint.")
            label = label.astype(np.uint8)
            for ending, result in ((LABELS, palette_image(label, space)), (OVERLAY, overlay(picture, label, space, opacity))):
                written.append(save_png(result, out / f"{name}{ending}", replace))
    notes += bad + [note for note in [depth_note(largest, bits)] if note]
    for note in notes if progress else bad:
        print(f"note: {note}", file=sys.stderr)
    return written


def read_picture(path: str | Path, bits: int = BITS) -> ReadPair:
    """A picture file, read as every data set's are, without a label; errors are written for the user who named it."""
    try:
        return read_pair(Path(path), None, None, bits)
    except FileNotFoundError:
        raise FileNotFoundError(f"No picture at {path}. Check the name.") from None
    except BadPicture as error:
        cure = " Give a PNG or JPEG file." if error.kind == BadPicture.DAMAGED else ""
        raise ValueError(f"{path} cannot be read as a picture. {error}{cure}") from None


def palette_image(label: np.ndarray, space: LabelSpace) -> Image.Image:
    """Train ids (H,W) as a palette picture: the pixels are the ids, a viewer shows the colours, 255 is black."""
    image = Image.fromarray(label.astype(np.uint8))
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[: space.num_classes] = space.palette
    palette[IGNORE] = 0
    image.putpalette(palette.flatten().tolist())
    return image


def overlay(picture: Image.Image, label: np.ndarray, space: LabelSpace, opacity: float = 0.5) -> Image.Image:
    """The picture with its classes' colours over it: (1 - opacity) picture + opacity colour; ignored pixels stay."""
    colours = np.where((label == IGNORE)[..., None], np.asarray(picture), colourise(label, space))
    return Image.blend(picture, Image.fromarray(colours.astype(np.uint8)), opacity)


def save_png(image: Image.Image, path: Path, replace: bool = False) -> Path:
    """Write a PNG that is either complete or not there; its comment says that it is a result (`files.made_by`)."""
    buffer, comment = io.BytesIO(), PngInfo()
    comment.add_text("Comment", mark(KIND))
    image.save(buffer, format="PNG", pnginfo=comment)
    return write_result(path, buffer.getbuffer(), KIND, replace)


def _network_input(picture: Image.Image, size: tuple[int, int] | None, normalisation: str, name: str) -> torch.Tensor:
    """The picture as a batch of one, resized and normalised as in every test."""
    image = tv_tensors.Image(TF.pil_to_tensor(picture))
    unknown = tv_tensors.Mask(torch.full((1, 1), IGNORE, dtype=torch.uint8))
    return test_transform(size, normalisation)(Sample(image, unknown, name)).image[None].as_subclass(torch.Tensor)


def _place(path: Path) -> tuple[int, int] | None:
    """What two names of one file have in common; None where no file is."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
