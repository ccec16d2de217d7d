"""What contrastive terms remember of past batches, class by class; all processes hold one memory.

Letters: C classes, D numbers of a feature, n_c the features of class c so far, K the length of a queue.

State is in buffers, so that a resumed run is the same run; nothing here has a gradient. (`engine/memory.py` measures RAM.)
"""

import torch
from torch import Tensor, nn

from course_lib import ranks
from course_lib.devices import long_sums
from course_lib.losses.inputs import IGNORE, train_ids
from course_lib.losses.prototype import as_columns
from course_lib.prototypes import ClassSums, LongBuffers, widened_parts
from course_lib.typed import AT_LEAST_1, in_range


class RunningStatistics(LongBuffers):
    """Count, mean and variance of the features of each class, over all vectors of all batches of all processes.

        w = n~ / (n + n~)                                                       with a tilde: of the new batch
        v <- (1 - w) v + w v~ + w (1 - w) (m - m~)^2,    m <- (1 - w) m + w m~,    n <- n + n~

    These are the mean and the population variance (divided by n) of the concatenation, channel by channel. Nothing is ever
    forgotten, as published; `horizon`: n is never counted above it, so that older features fade:  n <- min(n + n~, horizon).
    A class without features in a batch keeps its numbers; one never seen has zeros and is not `seen`. A batch with a number
    that is not finite changes nothing.

    State in float64: count (C,), mean and variance (C, D); where the device has none, on the CPU (`course_lib.devices`).

    Source: SePiCo (TPAMI 2023), released code, which keeps it in float32, each process for itself, and in no checkpoint.

    >>> memory = RunningStatistics(2, 1)
    >>> memory.update(torch.tensor([[1.0], [3.0]]), torch.tensor([1, 1]))
    >>> memory.update(torch.tensor([[5.0], [7.0]]), torch.tensor([1, 255]))
    >>> memory.means.tolist(), round(memory.variances[1, 0].item(), 4), memory.seen.tolist()  # of 1, 3, 5
    ([[0.0], [3.0]], 2.6667, [False, True])
    """

    def __init__(self, num_classes: int, dim: int, horizon: int | None = None) -> None:
        super().__init__()
        self.num_classes, self.dim, self.horizon = num_classes, dim, horizon
        in_range(self, num_classes=AT_LEAST_1, dim=AT_LEAST_1, horizon=AT_LEAST_1)
        self.register_buffer("count", torch.zeros(num_classes, **long_sums()))
        self.register_buffer("mean", torch.zeros(num_classes, dim, **long_sums()))
        self.register_buffer("variance", torch.zeros(num_classes, dim, **long_sums()))

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor, ignore_index: int = IGNORE) -> None:
        """Take in a batch: features (N, D, H, W) with labels (N, H, W), or (P, D) with (P,); `ignore_index` does not count."""
        n_new, m_new, v_new = self._of(features, labels, ignore_index)
        there = (n_new > 0) & (m_new + v_new).isfinite().all(dim=1)
        n, m, v = self.count, self.mean, self.variance
        w = (n_new / (n + n_new).clamp(min=1))[:, None]                                      # n~ / (n + n~)
        v_next = torch.lerp(v, v_new, w) + w * (1 - w) * (m - m_new).square()
        self.variance.copy_(torch.where(there[:, None], v_next, v))
        self.mean.copy_(torch.where(there[:, None], torch.lerp(m, m_new, w), m))
        n_next = n + n_new * there
        self.count.copy_(n_next if self.horizon is None else n_next.clamp(max=self.horizon))

    @property
    def means(self) -> Tensor:
        """m, (C, D) float32: a new tensor, which later updates leave alone."""
        return self._given(self.mean)

    @property
    def variances(self) -> Tensor:
        """v, (C, D) float32: a new tensor."""
        return self._given(self.variance)

    @property
    def seen(self) -> Tensor:
        """Which classes have statistics, (C,) bool."""
        return (self.count > 0).to(self.here.device)

    def _given(self, kept: Tensor) -> Tensor:
        return kept.float().to(self.here.device)

    def _of(self, features: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
        """n~, m~, v~ of a batch of all processes."""
        F, Y = as_columns(features, labels)
        C, D = self.num_classes, self.dim
        if F.shape[1] != D:
            raise ValueError(f"Got features of {F.shape[1]} channels; this memory has {D}. Build it with that dim.")
        sums = torch.zeros(C, 1 + 2 * D, **long_sums(F.device))                              # n, sum x, sum x^2
        for indicator, x in widened_parts(F, Y, C, ignore_index):
            sums[:, 0] += indicator.sum(dim=1)
            sums[:, 1 : 1 + D] += indicator @ x
            sums[:, 1 + D :] += indicator @ x.square()
        sums = ranks.total(sums).to(self.mean.device)
        n = sums[:, 0]
        m, square = (sums[:, 1:] / n.clamp(min=1)[:, None]).split(D, dim=1)
        return n, m, (square - m.square()).clamp(min=0)

    def extra_repr(self) -> str:
        return f"{self.num_classes} classes, {self.dim} numbers, horizon={self.horizon}"


class CentroidQueue(nn.Module):
    """The centroids of each class in the last batches that had it: K of them, the oldest leaves first.

        m~_c = the mean of the batch's features of class c (of all processes)

    State: centroids (C, K, D) float32 in a ring, entered (C,) how many ever came. It begins empty. zero_start: as released,
    each class begins with the zero vector, which is an entry like others until K batches later; all classes count as seen.
    A batch with a number that is not finite adds nothing.

    Source: SePiCo (TPAMI 2023), BankCL, released code.

    >>> memory = CentroidQueue(2, 1, length=2)
    >>> for value in (1.0, 2.0, 3.0):
    ...     memory.update(torch.full((1, 1), value), torch.tensor([1]))
    >>> memory.centroids[1].flatten().tolist(), memory.there.tolist()
    ([3.0, 2.0], [[False, False], [True, True]])
    """

    def __init__(self, num_classes: int, dim: int, length: int = 200, zero_start: bool = False) -> None:
        super().__init__()
        self.num_classes, self.dim, self.length = num_classes, dim, length
        in_range(self, num_classes=AT_LEAST_1, dim=AT_LEAST_1, length=AT_LEAST_1)
        self.register_buffer("centroids", torch.zeros(num_classes, length, dim))
        self.register_buffer("entered", torch.full((num_classes,), int(zero_start)))

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor, ignore_index: int = IGNORE) -> None:
        """Take in a batch: features (N, D, H, W) with labels (N, H, W), or (P, D) with (P,); `ignore_index` does not count."""
        device = self.centroids.device
        sums = ClassSums(self.num_classes, self.dim, features.device).add(features, labels, ignore_index).total()
        new = sums.mean().float().to(device)
        there = (sums.counts > 0).to(device) & new.isfinite().all(dim=1)
        place = torch.arange(self.num_classes, device=device), self.entered % self.length
        self.centroids[place] = torch.where(there[:, None], new, self.centroids[place])
        self.entered += there

    @property
    def there(self) -> Tensor:
        """Which places have a centroid, (C, K) bool."""
        return torch.arange(self.length, device=self.entered.device) < self.entered[:, None]

    @property
    def seen(self) -> Tensor:
        """Which classes have one, (C,) bool."""
        return self.entered > 0

    def extra_repr(self) -> str:
        return f"{self.num_classes} classes, {self.length} centroids of {self.dim} numbers each"


class FeatureQueue(nn.Module):
    """Single features of each class, at most K, the newest first.

    State: features (C, K, D) float32, filled (C,) how many places are in use, from the first on. Of a batch at most `most`
    features of a class enter (None: K), those with the highest scores; without scores the first ones of the batch. Features
    and scores that are not finite do not enter.

    Source: SemiSegContrast (Alonso et al., ICCV 2021), whose release sorts the scores ascending and keeps the lowest.

    >>> memory = FeatureQueue(2, 1, length=3)
    >>> memory.update(torch.tensor([[1.0], [2.0]]), torch.tensor([0, 0]))
    >>> memory.update(torch.tensor([[3.0], [4.0]]), torch.tensor([0, 0]), scores=torch.tensor([0.1, 0.9]), most=1)
    >>> memory.features[0].flatten().tolist(), memory.there.tolist()
    ([4.0, 1.0, 2.0], [[True, True, True], [False, False, False]])
    """

    def __init__(self, num_classes: int, dim: int, length: int = 256) -> None:
        super().__init__()
        self.num_classes, self.dim, self.length = num_classes, dim, length
        in_range(self, num_classes=AT_LEAST_1, dim=AT_LEAST_1, length=AT_LEAST_1)
        self.register_buffer("features", torch.zeros(num_classes, length, dim))
        self.register_buffer("filled", torch.zeros(num_classes, dtype=torch.int64))

    @torch.no_grad()
    def update(
        self,
        features: Tensor,
        labels: Tensor,
        scores: Tensor | None = None,
        most: int | None = None,
        ignore_index: int = IGNORE,
    ) -> None:
        """Take in a batch: features (N, D, H, W) with labels (N, H, W), or (P, D) with (P,); scores in the labels' shape."""
        F, Y = as_columns(features, labels)
        if F.shape[1] != self.dim:
            raise ValueError(f"Got features of {F.shape[1]} numbers; this memory has {self.dim}. Build it with that dim.")
        if scores is not None and scores.shape != labels.shape:
            raise ValueError(f"scores is {tuple(scores.shape)} and the labels are {tuple(labels.shape)}; it wants one shape.")
        if most is not None and most < 1:
            raise ValueError(f"most is {most}; it is how many features of a class may enter at a time: at least 1, or None.")
        most = self.length if most is None else min(most, self.length)
        x = F.mT.flatten(0, 1).to(self.features.dtype)                                        # (P, D)
        y = train_ids(Y, self.num_classes, ignore_index).flatten()
        score = x.new_zeros(len(x)) if scores is None else scores.flatten().to(x.dtype)
        counts = x.isfinite().all(dim=1) & score.isfinite()
        of_class = (y == torch.arange(self.num_classes, device=y.device)[:, None]) & counts
        table, best = _highest(torch.where(of_class, score, -torch.inf), most)                # (C, m) both
        rows = x[best]                                                                        # (C, m, D)
        if ranks.count() > 1:
            table, rows = (ranks.gather(part[None]).transpose(0, 1).flatten(1, 2) for part in (table, rows))
            table, best = _highest(table, most)
            rows = rows.gather(1, best[:, :, None].expand(-1, -1, self.dim))
        self._enter(rows, (table > -torch.inf).sum(dim=1))

    def _enter(self, rows: Tensor, count: Tensor) -> None:
        """Put the first count_c of the rows (C, m, D) of each class before what is there."""
        m, place = rows.shape[1], torch.arange(self.length, device=rows.device)
        new = place < count[:, None]
        old = m + place - count[:, None]  # of `rows` followed by what is there
        source = torch.where(new, place, old)
        both = torch.cat([rows, self.features], dim=1)
        self.features.copy_(both.gather(1, source[:, :, None].expand_as(self.features)))
        self.filled.copy_((self.filled + count).clamp(max=self.length))

    @property
    def there(self) -> Tensor:
        """Which places have a feature, (C, K) bool."""
        return torch.arange(self.length, device=self.filled.device) < self.filled[:, None]

    @property
    def seen(self) -> Tensor:
        """Which classes have one, (C,) bool."""
        return self.filled > 0

    def extra_repr(self) -> str:
        return f"{self.num_classes} classes, {self.length} features of {self.dim} numbers each"


def _highest(scores: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The highest scores of each row and their places, of equal ones the first."""
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :most]
    return scores.gather(1, order), order


class StepQueue(nn.Module):
    """The features of the last steps with their classes, whatever class they are of: negatives for `patch_contrast`.

    Each `enter` is a step of at most `rows` features, those of all processes; the oldest step leaves. Rows that are not filled
    have class 255, and so has a feature with a number that is not finite. All processes hold one queue.

    State: features (steps, rows, D) float32 and classes (steps, rows), the newest step first. It begins empty.

    Source: PiPa (ACM MM 2023), from Context-Aware Consistency (CVPR 2021), released code: three steps, the current one among
    them.

    >>> memory = StepQueue(2, 1, steps=2)
    >>> for c in (4, 5, 6):
    ...     memory.enter(torch.full((1, 1), float(c)), torch.tensor([c]))
    >>> features, classes = memory.held()
    >>> features.flatten().tolist(), classes.tolist()
    ([6.0, 0.0, 5.0, 0.0], [6, 255, 5, 255])
    """

    def __init__(self, rows: int, dim: int, steps: int = 3) -> None:
        super().__init__()
        self.rows, self.dim, self.steps = rows, dim, steps
        in_range(self, rows=AT_LEAST_1, dim=AT_LEAST_1, steps=AT_LEAST_1)
        self.register_buffer("features", torch.zeros(steps, rows, dim))
        self.register_buffer("classes", torch.full((steps, rows), IGNORE))

    @torch.no_grad()
    def enter(self, features: Tensor, classes: Tensor) -> None:
        """Take in this process's features (P, D) of a step, with their train ids (P,); P is the same in all processes."""
        if features.ndim != 2 or features.shape[1] != self.dim or classes.shape != features.shape[:1]:
            raise ValueError(
                f"StepQueue got features {tuple(features.shape)} and classes {tuple(classes.shape)}; it wants (P, {self.dim}) "
                "and (P,)."
            )
        x, y = ranks.gather(features.detach()), ranks.gather(classes)
        free = self.rows - len(x)
        if free < 0:
            raise ValueError(f"StepQueue got {len(x)} features in a step, of all processes; it has {self.rows} rows for them.")
        finite = x.isfinite().all(dim=1)
        x, y = torch.where(finite[:, None], x, 0.0), torch.where(finite, y, IGNORE)
        x = nn.functional.pad(x.to(self.features.dtype), (0, 0, 0, free))
        y = nn.functional.pad(y.to(self.classes.dtype), (0, free), value=IGNORE)
        self.features = torch.cat([x[None], self.features[:-1]])  # new tensors: a backward pass may hold the old ones
        self.classes = torch.cat([y[None], self.classes[:-1]])

    def held(self) -> tuple[Tensor, Tensor]:
        """The features (steps x rows, D) and their classes (steps x rows,), 255 where there is none."""
        return self.features.flatten(0, 1), self.classes.flatten()

    def extra_repr(self) -> str:
        return f"{self.steps} steps of {self.rows} rows, {self.dim} numbers each"
