"""PiPa's patch contrast: a place of a target picture has the same embedding in two windows, whatever lies round it.

Letters: x_T a target picture, y~ the teacher's labels for it; W_1, W_2 two windows of it that overlap, x_1, x_2 what they show;
f the student, g a small projector; z_k the embeddings of W_k, one for each cell, c_k how sure the student is of each cell;
B the cells that both windows show; Q embeddings and labels of random cells of the last three steps.

    each step   x_k = colours(flipped(W_k of x_T))                      k = 1, 2;  one pair of windows and flips for the batch
                z_k = unit(g(mean over 2 x 2 of f's features of x_k)),  flipped back
                Q takes in random cells of z_1 and z_2, with their y~
                L = L_patch(z_1 in B; z_2 in B, Q, y~) + L_patch(z_2 in B; z_1 in B, Q, y~)        losses/patch_contrast.py

A cell has the label of its middle pixel, and none where that has no weight. The rule that the less sure view learns from the
surer one wants two confidences of a cell. They are those of the network that makes the embeddings, which has read both windows
anyway: the largest softmax, the mean over the cell.

Where it differs from the release:
    the student reads the windows. There the teacher does (`views="teacher"`), so the loss teaches the projector alone
    labels are the teacher's, confidences the student's. There both come from a layer that nothing trains
    windows are cut from the step's target pictures. There a loader of its own cuts 720 x 720 of rescaled pictures, but is
        restarted in each step, at the same pictures
    windows, and so cells, lie on the grid of the network's features, whatever its stride. There the box is divided by 8, with
        HRDA the features are on another grid, and places do not fit
    cells without a label are neither counted nor negatives, and no epsilon caps the loss at 18
    one pair of windows and flips for the batch, where each picture has its own; as many random cells of each picture
    the projector learns at the rate of the heads. There it has that of the encoder, a tenth
    colours are stronger; those of the release, patch_photometric="mild" and patch_blur=0, are in the published recipes
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib import ranks
from course_lib.class_memory import StepQueue
from course_lib.data import NORMALISATIONS
from course_lib.data.colours import Photometric
from course_lib.losses.inputs import IGNORE, full_precision
from course_lib.losses.patch_contrast import patch_contrast
from course_lib.methods.step import Losses, Passes, Step
from course_lib.methods.supervision import recoloured
from course_lib.methods.terms.base import Term, TermSettings, in_rows
from course_lib.mixing import uniform
from course_lib.networks.prediction import Box, Prediction
from course_lib.typed import AT_LEAST_1, SHARE, TEMPERATURE, checked, in_range

Views = Literal["student", "teacher"]


@dataclass(frozen=True)
class PatchContrastSettings(TermSettings):
    """Source: PiPa (Chen et al., ACM MM 2023), released code, DAFormer variant; of HRDA's only the weight differs."""

    weight: float = 0.1  # [code] with HRDA 0.01
    first_step: int = 10_000  # [code]
    views: Views = "student"  # ours: who reads the windows; [code] "teacher", and the student learns nothing
    window_share: float = 0.75  # ours: of each side of the picture, rounded to the network's grid; [code] 720 pixels
    least_overlap: float = 0.1  # [code] intersection over union of the windows, at least
    flip_share: float = 0.5  # [code] probability of a horizontal flip, for each window
    patch_photometric: Photometric = "weak"  # ours; [code] "mild", which has a blur of its own
    patch_blur: float = 0.5  # ours: the probability of a wider blur; [code] 0
    pool: int = 2  # [code] cells of the features, along each side, whose mean is embedded
    hidden: int = 256  # [code] width of the projector
    embedding: int = 128  # [code] numbers of an embedding
    patch_temperature: float = 0.1  # [code]
    least_confidence: float = 0.9  # [code] of the view that the other one learns from
    queue_cells: int = 1600  # [code] random cells of each window that are kept of a step, of all pictures together
    queue_steps: int = 3  # [code] this step among them

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range(self, window_share=(0.01, 1.0), least_overlap=(0.01, 1.0), flip_share=SHARE, patch_blur=SHARE, pool=AT_LEAST_1,
                 hidden=AT_LEAST_1, embedding=AT_LEAST_1, patch_temperature=TEMPERATURE, least_confidence=SHARE,
                 queue_cells=AT_LEAST_1, queue_steps=AT_LEAST_1)  # fmt: skip
        checked(Views, self.views, "views")
        checked(Photometric, self.patch_photometric, "patch_photometric")


class PatchContrast(Term):
    """A place of the target alike in two windows, for methods with a teacher.

    Projector and queue are in the state; windows and colours depend on the step's numbers. Where batches are accumulated
    the queue counts each batch as a step.
    """

    name = "patch_contrast"
    Settings = PatchContrastSettings
    reads, taught = ("teacher",), True

    def __init__(self, segmenter: nn.Module, settings: PatchContrastSettings | None = None) -> None:
        super().__init__(segmenter, settings)
        s = self.settings
        self.normalisation = NORMALISATIONS[segmenter.normalisation]
        self.project = nn.Sequential(
            nn.Conv2d(segmenter.feature_dim, s.hidden, 1), nn.ReLU(inplace=True), nn.Conv2d(s.hidden, s.embedding, 1)
        )
        self.queue = StepQueue(2 * s.queue_cells, s.embedding, s.queue_steps)

    def forward(self, P: dict[str, Prediction], step: Step) -> Losses:
        s, t, numbers = self.settings, step.taught, step.numbers
        size = tuple(t.image.shape[2:])
        b = s.pool * stride_of(size, tuple(t.prediction.features.shape[2:]))  # pixels of a cell's side
        y = cell_labels(t.label, t.weight, b)                                                # y~
        W_1, W_2 = W = self.windows(size, b, numbers)                                        # in cells
        flips = [number < s.flip_share for number in torch.rand(2, generator=numbers, device="cpu").tolist()]
        x = [self.view(t.image, W_k, b, flip, numbers) for W_k, flip in zip(W, flips)]       # x_1, x_2
        (z_1, z_2), (c_1, c_2) = self.embedded(t.teacher if s.views == "teacher" else self.segmenter, torch.cat(x), flips, W_1)
        self.remember((z_1, z_2), (W_1.of(y), W_2.of(y)), numbers)                           # Q
        B, (Q, y_Q) = shared(W_1, W_2), self.queue.held()
        B_1, B_2, y_B = within(B, W_1), within(B, W_2), B.of(y).flatten()
        u, v, c_u, c_v = in_rows(B_1.of(z_1)), in_rows(B_2.of(z_2)), B_1.of(c_1).flatten(), B_2.of(c_2).flatten()
        how = s.patch_temperature, s.least_confidence
        L = patch_contrast(u, v, Q, y_B, y_Q, c_u, c_v, *how) + patch_contrast(v, u, Q, y_B, y_Q, c_v, c_u, *how)
        return {"patches": L}

    def windows(self, size: tuple[int, int], b: int, numbers: torch.Generator) -> tuple[Box, Box]:
        """W_1 and W_2 of a picture of `size`, in cells of b x b pixels; their sides are such as the network trains on."""
        unit = math.lcm(b, getattr(self.segmenter, "multiple", 1))
        if min(size) < unit:
            raise ValueError(
                f"patch_contrast cuts windows whose sides are multiples of {unit} pixels; the target pictures are "
                f"{size[1]}x{size[0]}. Train on larger ones, or lower pool, which is {self.settings.pool}."
            )
        sides = [max(1, min(side // unit, round(self.settings.window_share * side / unit))) for side in size]
        grid, window = tuple(side // b for side in size), tuple(unit // b * side for side in sides)
        return two_windows(grid, window, self.settings.least_overlap, numbers)

    def view(self, image: Tensor, W: Box, b: int, flip: bool, numbers: torch.Generator) -> Tensor:
        """What a window shows, in colours of its own: (N, 3, h, w)."""
        x = Box(*(b * side for side in W)).of(image)
        s = self.settings
        return recoloured(x.flip(-1) if flip else x, self.normalisation, s.patch_photometric, s.patch_blur, numbers)

    def embedded(self, network: nn.Module, x: Tensor, flips: list[bool], W: Box) -> tuple[tuple[Tensor, ...], ...]:
        """(z_1, z_2), each (N, E, h, w) float32 on the window's cells, and (c_1, c_2), each (N, h, w) without gradient; x: x_1
        and x_2 in one batch."""
        P, grid = network(x), (W.height, W.width)
        z = self.project(on_cells(upright(P.features, flips), grid))
        c = full_precision(P.logits.detach()).softmax(dim=1).amax(dim=1, keepdim=True)
        return F.normalize(full_precision(z), dim=1).chunk(2), on_cells(upright(c, flips), grid)[:, 0].chunk(2)

    def embedding(self, P: Prediction) -> Tensor:
        """z of all cells of the network's grid; the loss compares those of `pool`."""
        return self.project(P.features)

    def remember(self, z: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor], numbers: torch.Generator) -> None:
        """Put random cells of both windows and their labels into the queue, as many of each picture."""
        pictures, most = ranks.count() * len(z[0]), self.settings.queue_cells
        if pictures > most:
            raise ValueError(
                f"terms.patch_contrast.queue_cells is {most} for a batch of {pictures} pictures; it wants at least one cell of "
                "each."
            )
        drawn = [some_cells(z_k.detach(), y_k, most // pictures, numbers) for z_k, y_k in zip(z, y)]
        features, classes = (torch.cat(parts, dim=1).flatten(0, 1) for parts in zip(*drawn))  # picture by picture
        self.queue.enter(features, classes)

    def passes(self) -> Passes:
        """Both windows, by their nominal share of the pixels."""
        both = 2 * self.settings.window_share**2
        return Passes(trained=0, frozen=both) if self.settings.views == "teacher" else Passes(trained=both, frozen=0)


def stride_of(size: tuple[int, int], grid: tuple[int, int]) -> int:
    """Pixels from one cell of a grid to the next; a power of 2. Grids may have one row and column more than fit.

    >>> stride_of((512, 512), (64, 64)), stride_of((720, 1280), (91, 161))
    (8, 8)

    Raises ValueError for other grids: cells of two windows would not show the same places.
    """
    stride = 2 ** max(0, round(math.log2(max(size) / max(grid))))
    if any(cells not in (side // stride, side // stride + 1) for side, cells in zip(size, grid)):
        raise ValueError(
            f"patch_contrast got features of {grid[1]}x{grid[0]} cells for pictures of {size[1]}x{size[0]}; it wants a network "
            "whose stride is a power of 2, so that the cells of two windows show the same places."
        )
    return stride


def two_windows(
    grid: tuple[int, int], window: tuple[int, int], least: float, numbers: torch.Generator
) -> tuple[Box, Box]:
    """Two windows (height, width) in a grid of cells: the first anywhere, the second anywhere where their intersection over
    union is at least `least`."""
    (h, w), (rows, columns) = window, (cells - side + 1 for cells, side in zip(grid, window))
    boxes = [Box(top, left, h, w) for top in range(rows) for left in range(columns)]
    first = _any_of(boxes, numbers)
    common = ((box, math.prod(shared(first, box)[2:])) for box in boxes)
    return first, _any_of([box for box, cells in common if cells >= least * (2 * h * w - cells)], numbers)


def _any_of(boxes: list[Box], numbers: torch.Generator) -> Box:
    return boxes[int(torch.randint(len(boxes), (), generator=numbers, device="cpu"))]


def shared(a: Box, b: Box) -> Box:
    """What two windows have in common; of height or width 0 where that is nothing.

    >>> shared(Box(0, 0, 4, 4), Box(1, 3, 4, 4))
    Box(top=1, left=3, height=3, width=1)
    """
    top, left = max(a.top, b.top), max(a.left, b.left)
    bottom, right = min(a.top + a.height, b.top + b.height), min(a.left + a.width, b.left + b.width)
    return Box(top, left, max(0, bottom - top), max(0, right - left))


def within(box: Box, W: Box) -> Box:
    """A box of the picture as one of the window W that it lies in."""
    return box._replace(top=box.top - W.top, left=box.left - W.left)


def cell_labels(label: Tensor, weight: Tensor, b: int) -> Tensor:
    """The label of the middle pixel of each cell of b x b pixels, 255 where its weight is 0: (N, H, W) -> (N, H // b, W // b).

    >>> y = torch.arange(8).view(1, 2, 4)
    >>> cell_labels(y, (y < 7).float(), 2).tolist()
    [[[5, 255]]]
    """
    y = torch.where(weight > 0, label, IGNORE)
    H, W = (side // b * b for side in label.shape[1:])
    return y[:, b // 2 : H : b, b // 2 : W : b]


def upright(maps: Tensor, flips: list[bool]) -> Tensor:
    """Maps (2 N, D, h, w) of two views in one batch, each flipped back."""
    return torch.cat([part.flip(-1) if flip else part for part, flip in zip(maps.chunk(2), flips)])


def on_cells(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Maps (N, D, n, m) of a window on its grid of cells, each the mean of k x k. A row or column beyond the window, which
    networks that round sizes up have, is left out.

    >>> on_cells(torch.arange(5.0).view(1, 1, 1, 5).expand(1, 1, 2, 5), (1, 2)).tolist()
    [[[[0.5, 2.5]]]]
    """
    k = tuple(n // cells for n, cells in zip(maps.shape[2:], grid))
    if any(n not in (k_n * cells, k_n * cells + 1) or not k_n for n, k_n, cells in zip(maps.shape[2:], k, grid)):
        raise ValueError(
            f"patch_contrast got maps of {maps.shape[3]}x{maps.shape[2]} for a window of {grid[1]}x{grid[0]} cells; it wants a "
            "whole number of them for each cell. Choose a network whose stride is a power of 2."
        )
    return F.avg_pool2d(maps[..., : k[0] * grid[0], : k[1] * grid[1]], k)


def some_cells(z: Tensor, y: Tensor, count: int, numbers: torch.Generator) -> tuple[Tensor, Tensor]:
    """`count` random cells of each picture, or all if there are fewer: z (N, E, h, w), y (N, h, w) -> (N, K, E), (N, K)."""
    N, E, h, w = z.shape
    order = uniform((N, h * w), z.device, numbers).argsort(dim=1, stable=True)[:, :count]
    return z.flatten(2).mT.gather(1, order[..., None].expand(-1, -1, E)), y.flatten(1).gather(1, order)
