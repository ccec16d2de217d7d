"""SimCLR: learn from pictures without labels, by telling two views of one picture from all others (Chen et al., ICML 2020).

Letters: x pictures, x_a, x_b two views of each, f the backbone, h = f(x) pooled features (N, D), g the projection head,
z = g(h) embeddings (N, E), tau the temperature.

    x_a, x_b = t(x), t'(x)             two independent draws of one augmentation (data/views.py)
    h = mean over the grid of f(x)     what is kept
    z = g(h)                           compared by the loss, not used afterwards
    L = NT-Xent(z_a, z_b; tau)         losses/nt_xent.py

The backbone is a segmentation network of this library: its features are pooled, its classifier is not trained. Afterwards
`init_from` starts a segmenter from it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from course_lib import ranks
from course_lib.data import NORMALISATIONS, Batch
from course_lib.data.sampling import SeedStream, mixed_seed
from course_lib.data.views import Views, ViewSettings
from course_lib.losses import MemoryBank, nt_xent
from course_lib.methods.base import Method
from course_lib.methods.optimisers import OptimiserSettings, make_optimiser
from course_lib.methods.step import Losses, Passes, Stream
from course_lib.networks import Projector, pooled
from course_lib.typed import AT_LEAST_1, TEMPERATURE, in_range


@dataclass(frozen=True)
class SimCLRSettings:
    """Constants of the method; defaults: the paper's and its released code's."""

    temperature: float = 0.1  # released code, ImageNet; CIFAR: 0.5
    head_layers: int = 2  # SimCLR v2: 3; 0: none, the loss looks at h itself
    head_hidden: int | None = None  # None: as wide as h
    head_out: int = 128
    head_norm: Literal["batch", "layer", "none"] = "batch"
    chunk: int | None = None  # rows of the similarity matrix held at once; None: all of them
    bank: int = 0  # negatives from a memory of this many embeddings instead of the batch; 0: the batch, as published
    views: ViewSettings = ViewSettings()

    def __post_init__(self) -> None:
        in_range(self, temperature=TEMPERATURE, head_layers=(0, 16), head_hidden=(1, 65536), head_out=(1, 65536),
                 chunk=AT_LEAST_1, bank=(0, 10**8))  # fmt: skip


class SimCLR(Method):
    """Train the backbone of `segmenter` on pictures alone. Batches hold RGB in [0, 1] ("unit" in data.NORMALISATIONS).

    The k-th batch's views depend on (seed, k) and on a picture's place in the whole batch: not on the number of
    processes, and a resumed run (the buffer `drawn` is k) goes on identically.
    """

    name = "simclr"
    Settings = SimCLRSettings
    segments: ClassVar[bool] = False

    @classmethod
    def streams(cls, settings: SimCLRSettings) -> dict[str, Stream]:
        return {"source": Stream(look="unit")}

    def __init__(self, segmenter: nn.Module, *rest: Any, **others: Any) -> None:
        super().__init__(segmenter, *rest, **others)
        settings, optimiser = self.settings, self.optimiser_settings
        self.views = Views(settings.views)
        self.projector = Projector(
            segmenter.feature_dim, settings.head_hidden, settings.head_out, settings.head_layers, settings.head_norm
        )
        self.bank = MemoryBank(settings.bank, self.projector.out, self.seed) if settings.bank else None
        self.normalisation = NORMALISATIONS[segmenter.normalisation]
        self.register_buffer("drawn", torch.zeros((), dtype=torch.int64))  # batches so far
        # a term, which has a pass of its own here, may read the classes, too
        network = segmenter.parameters() if self.terms else segmenter.backbone_parameters()
        trained = [*network, *self.projector.parameters()]
        self.optimisers = {"simclr": make_optimiser(decay_groups(trained, optimiser), optimiser)}
        self.terms.join(self.optimisers["simclr"], optimiser)
        self.weights, self.landmarks = {}, {}

    def _apply(self, fn, recurse: bool = True):
        drawn = self.drawn
        super()._apply(fn, recurse)
        self.drawn = drawn  # stays with the host, which reads it in every step
        return self

    def view(self, images: Tensor, which: int) -> Tensor:
        """t(x): this step's view number `which` of each picture, as the network wants it."""
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, SeedStream.VIEWS, int(self.drawn), which))
        n, first = len(images), ranks.rank() * len(images)
        numbers = self.views.draw(n * ranks.count(), generator)[first : first + n]
        return self.normalisation.normalise(255 * self.views.apply(images, numbers))

    def encode(self, x: Tensor) -> Tensor:
        """h = f(x): normalised pictures (N, 3, H, W) -> pooled features (N, D)."""
        return pooled(self.segmenter(x).features)

    def passes(self) -> Passes:
        return Passes(trained=2, frozen=0)  # both views, in one pass of twice the batch

    def losses(self, source: Batch) -> Iterator[Losses]:
        x_a, x_b = self.view(source.image, 0), self.view(source.image, 1)          # t(x), t'(x)
        self.drawn += 1
        h = self.encode(torch.cat([x_a, x_b]))                                     # one pass: shared batch statistics
        z_a, z_b = self.projector(h).chunk(2)                                      # g(h)
        others = self.settings.bank + 1 if self.bank is not None else 2 * len(z_a) * ranks.count() - 1
        self.landmarks["nt_xent"] = (math.log(others), f"ln {others}: cannot tell two views of one picture from the others")
        yield {"nt_xent": self.contrast(z_a, z_b)}

    def contrast(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """NT-Xent against the other views of the batch, of all processes, or against the memory bank."""
        s = self.settings
        if self.bank is not None:
            return self.bank(z_a, z_b, s.temperature)
        if len(z_a) * ranks.count() < 2 and not z_a.is_meta:  # meta: shapes alone, of one process's part
            raise ValueError(
                f"A batch of {len(z_a)} picture has no other pictures to compare its views with: NT-Xent is 0 and nothing is "
                "learnt. Give batch_size=2 or more (published: 4096), or a memory bank (bank=4096)."
            )
        return nt_xent(z_a, z_b, s.temperature, chunk=s.chunk, gather=ranks.count() > 1)


def decay_groups(parameters: list[nn.Parameter], settings: OptimiserSettings) -> list[dict]:
    """Weights decay; biases and normalisation layers (one axis) do not, as published."""
    parameters = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "lr": settings.lr, "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "lr": settings.lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
