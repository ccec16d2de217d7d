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
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as TF
from tqdm.auto import tqdm

from course_lib.data import Sample, test_transform
from course_lib.data.depth import BITS, check_bits, depth_note
from course_lib.data.reading import BadPicture, ReadPair, read_pair
from course_lib.evaluation.multiscale import multiscale_probabilities
from course_lib.evaluation.scoring import DTYPES, eval_mode, network_device, predicted_ids
from course_lib.files import write_whole
from course_lib.labels import IGNORE, LabelSpace, colourise, label_space


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
    progress: bool = True,
) -> list[Path]:
    """Write <stem>_labels.png (train ids, coloured by a palette) and <stem>_overlay.png for each picture into `out`.

    Both have the picture's own size, upright. `size` (H,W) is what the network sees; None shows it the picture as it is, which
    on a telephone's photograph takes time and memory. `bits`: as in `course_lib.data.open_dataset`. `opacity` is that of
    the colours over the picture. A file is complete when it appears: it is written under another name first. Returns the
    written paths.

    Raises:
        FileNotFoundError: for a picture that is not there. ValueError: for a file that is no picture, for two
        pictures of one name, and for a space that the network was not trained for.
    """
    space, out = label_space(space), Path(out)
    paths = [Path(path) for path in images]
    _check(segmenter, paths, space, opacity, precision)
    check_bits(bits)
    device = network_device(segmenter, device)
    segmenter.to(device)
    out.mkdir(parents=True, exist_ok=True)
    written, largest = [], None
    with eval_mode(segmenter), torch.no_grad():
        for path in tqdm(paths, desc="labelling", disable=not progress, mininterval=0.5, dynamic_ncols=True):
            read = read_picture(path, bits)
            picture = Image.fromarray(read.image.permute(1, 2, 0).numpy())
            largest = max((value for value in (largest, read.largest) if value is not None), default=None)
            image = _network_input(picture, size, segmenter.normalisation).to(device)
            own_size = (picture.height, picture.width)
            with torch.autocast(device.type, dtype=DTYPES[precision], enabled=DTYPES[precision] is not None):
                scores = multiscale_probabilities(segmenter, image, own_size) if multiscale else segmenter(image).logits
            label = predicted_ids(scores, own_size)[0].to(torch.uint8).cpu().numpy()
            written.append(save_png(palette_image(label, space), out / f"{path.stem}_labels.png"))
            written.append(save_png(overlay(picture, label, space, opacity), out / f"{path.stem}_overlay.png"))
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


def save_png(image: Image.Image, path: Path) -> Path:
    """Write a PNG that is either complete or not there."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return write_whole(path, buffer.getbuffer(), sync=False)


def _network_input(picture: Image.Image, size: tuple[int, int] | None, normalisation: str) -> torch.Tensor:
    """The picture as a batch of one, resized and normalised as in every test."""
    image = tv_tensors.Image(TF.pil_to_tensor(picture))
    unknown = tv_tensors.Mask(torch.full((picture.height, picture.width), IGNORE, dtype=torch.int64))
    return test_transform(size, normalisation)(Sample(image, unknown, "")).image[None].as_subclass(torch.Tensor)


def _check(segmenter: nn.Module, paths: list[Path], space: LabelSpace, opacity: float, precision: str) -> None:
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
            f"The network has {segmenter.num_classes} classes, label space '{space.name}' has {space.num_classes}. "
            "Give the space that it was trained in."
        )
    if not 0 <= opacity <= 1:
        raise ValueError(f"predict got opacity={opacity}; it wants 0 (picture alone) to 1 (colours alone).")
    if precision not in DTYPES:
        raise ValueError(f"predict got precision={precision!r}; it wants 'fp32', 'bf16' or 'fp16'.")
