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
from course_lib.data.depth import BITS, check_bits, depth_note
from course_lib.data.reading import BadPicture, ReadPair, read_pair
from course_lib.engine.precision import Precision
from course_lib.evaluation.multiscale import multiscale_probabilities
from course_lib.evaluation.scoring import eval_mode, network_device, predicted_ids
from course_lib.files import mark, refuse_foreign, write_result
from course_lib.labels import IGNORE, LabelSpace, colourise, label_space
from course_lib.terminal import print

KIND = "uda predict"
MOST = 4 * 2**30  # bytes of probabilities of all classes at several scales, three maps of a picture's own size
ENDINGS = ("_labels.png", "_overlay.png")


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
    replace: bool = False,
    progress: bool = True,
) -> list[Path]:
    """Write <stem>_labels.png (train ids, coloured by a palette) and <stem>_overlay.png for each picture into `out`.

    Both have the picture's own size, upright. `size` (H,W) is what the network sees; None shows it the picture as it is, which
    on a telephone's photograph takes time and memory. `bits`: as in `course_lib.data.open_dataset`. `opacity` is that of
    the colours over the picture. A file is complete when it appears: it is written under another name first. Returns the
    written paths. Files that an earlier call wrote are replaced; other files of these names only with `replace`, and never
    one of `images`.

    Raises:
        FileNotFoundError: for a picture that is not there. ValueError: for a file that is no picture, for two
        pictures of one name, for a network that gives NaN, and for a space that the network was not trained for.
        FileExistsError, before any work: for a file in `out` that would be overwritten and is not of an earlier call.
    """
    space, out = label_space(space), Path(out).expanduser()
    paths = [Path(path).expanduser() for path in images]
    _check(segmenter, paths, space, opacity)
    check_bits(bits)
    for path in paths:
        for ending in ENDINGS:
            refuse_foreign(out / f"{path.stem}{ending}", KIND, replace, reading=paths)
    device = network_device(segmenter, device)
    passes = Precision(precision, device)
    segmenter.to(device)
    out.mkdir(parents=True, exist_ok=True)
    written, largest = [], None
    with eval_mode(segmenter), torch.no_grad():
        for path in tqdm(paths, desc="labelling", disable=not progress, mininterval=0.5, dynamic_ncols=True):
            read = read_picture(path, bits)
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
                scores = multiscale_probabilities(segmenter, image, own_size) if multiscale else segmenter(image).logits
            label = predicted_ids(scores, own_size)[0].to(torch.int16).cpu().numpy()
            if label.min() < 0:
                raise ValueError(f"The network gives NaN for {path}: its training diverged. Take another checkpoint.")
            label = label.astype(np.uint8)
            results = (palette_image(label, space), overlay(picture, label, space, opacity))
            for ending, result in zip(ENDINGS, results):
                written.append(save_png(result, out / f"{path.stem}{ending}", replace))
    if progress and (note := depth_note(largest, bits)):
        print(f"note: {note}", file=sys.stderr)
    return written


def read_picture(path: str | Path, bits: int = BITS) -> ReadPair:
    """A picture file, read as every data set's are, without a label; errors speak to whoever gave its name."""
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


def _check(segmenter: nn.Module, paths: list[Path], space: LabelSpace, opacity: float) -> None:
    if not paths:
        raise ValueError("predict got no pictures. Give at least one file.")
    stems: dict[str, Path] = {}
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"No picture at {path}. Check the name; folders are not searched.")
        if path.stem in stems:
            raise ValueError(
                f"{stems[path.stem]} and {path} would both be written as {path.stem}_labels.png. "
                "Rename one, or give them different folders in two calls."
            )
        stems[path.stem] = path
    if space.num_classes != segmenter.num_classes:
        raise ValueError(
            f"The network has {segmenter.num_classes} classes, label space '{space.title}' has {space.num_classes}. "
            "Give the space that it was trained in."
        )
    if not 0 <= opacity <= 1:
        raise ValueError(f"predict got opacity={opacity}; it wants 0 (picture alone) to 1 (colours alone).")
