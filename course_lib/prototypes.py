"""Prototypes: the mean feature of every class, and how it is kept while features and domains change.

Letters: N images, D channels, C classes, (H, W) the features' size; F features, Y labels, p_c prototype and n_c pixels of
class c; with a tilde: those of the new batch.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from course_lib import ranks
from course_lib.devices import long_sums, widened
from course_lib.losses.inputs import IGNORE, train_ids
from course_lib.losses.prototype import as_columns

Domain = Literal["source", "target"]
Rule = Literal["mean", "ema", "mix", "fixed"]
Feed = Literal["both", "source", "target"]

_AT_A_TIME = 2**20  # numbers of the features that are in float64 at a time


class ClassSums:
    """The numerator and the denominator of class means, so that parts of a data set can be added up.

        sums_c   = sum_n sum_{i,j} F_{n,i,j} 1[Y_{n,i,j} = c]        (C, D)
        counts_c = sum_n sum_{i,j} 1[Y_{n,i,j} = c]                  (C,)

    Both float64, whatever the features are and under autocast too; on `device`, or on the CPU where the device has no float64
    (`course_lib.devices.long_sums`).
    The work is a matrix product with the classes' indicator, a few thousand pixels at a time; no feature is copied out.
    Pixels labelled `ignore_index` do not count; on the CPU another id outside 0..C-1 is a ValueError, on a GPU ids are
    not looked at.

    >>> sums = ClassSums(3, 2).add(torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]]), torch.tensor([0, 0, 2]))
    >>> sums.mean().tolist(), sums.counts.tolist()
    ([[2.0, 0.0], [0.0, 0.0], [0.0, 5.0]], [2.0, 0.0, 1.0])
    """

    def __init__(self, num_classes: int, dim: int, device: torch.device | str | None = None):
        place = long_sums(device)
        self.sums = torch.zeros(num_classes, dim, **place)
        self.counts = torch.zeros(num_classes, **place)

    @torch.no_grad()
    def add(self, features: Tensor, labels: Tensor, ignore_index: int = IGNORE) -> "ClassSums":
        """Count features (N, D, H, W) with labels (N, H, W), or (N, D) with (N,), any integer type."""
        F, Y = as_columns(features, labels)
        C, D = self.sums.shape
        if F.shape[1] != D:
            raise ValueError(f"Got features of {F.shape[1]} channels; these prototypes have {D}. Build them with that dim.")
        for indicator, x in widened_parts(F, Y, C, ignore_index):
            self.sums += indicator @ x
            self.counts += indicator.sum(1)
        return self

    def total(self) -> "ClassSums":
        """Those of all processes together."""
        whole = ClassSums(*self.sums.shape, device=self.sums.device)
        table = ranks.total(torch.cat([self.sums, self.counts[:, None]], dim=1))
        whole.sums, whole.counts = table[:, :-1], table[:, -1]
        return whole

    def mean(self) -> Tensor:
        """p_c = sums_c / counts_c, (C, D) float64; 0 for a class without pixels."""
        return self.sums / self.counts.clamp(min=1)[:, None]


def widened_parts(F: Tensor, Y: Tensor, num_classes: int, ignore_index: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Columns F (N, D, P) with labels Y (N, P) in float64, some pixels p at a time: 1[Y = c] (C, p) and the features (p, D)."""
    Y = train_ids(Y, num_classes, ignore_index)
    Y = torch.where(Y == ignore_index, num_classes, Y)  # of no class
    classes, step = torch.arange(num_classes, device=Y.device)[:, None], max(1, _AT_A_TIME // F.shape[1])
    for F_n, Y_n in zip(F, Y):
        for f, y in zip(F_n.split(step, dim=1), Y_n.split(step)):
            yield widened(y == classes), widened(f.T)


class LongBuffers(nn.Module):
    """A module whose buffers are float64, also on a device that has none: there they stay on the CPU. `here`, which is not in
    the state, is on the module's device."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("here", torch.empty(0), persistent=False)  # goes wherever the module goes

    def _apply(self, fn, recurse: bool = True):
        device = fn(self.here).device
        place = long_sums(device)["device"]
        return super()._apply(fn if place == device else lambda x: fn(x) if x is self.here else x.to(place), recurse)


class PrototypeBank(LongBuffers):
    """One prototype per class; buffers, so that a resumed run is the same run; not trained, so never with gradient.

    rule: how prototypes take in a batch with class means p~_c over n~_c pixels (of all processes together):
        "mean"   p_c <- (p_c n_c + p~_c n~_c) / (n_c + n~_c)      strict statistical mean over every vector ever seen
        "ema"    p_c <- momentum p_c + (1 - momentum) p~_c        recent batches count most
        "mix"    p_c <- m p_c^s + (1 - m) p_c^t                   one strict mean for each domain, m of the source
        "fixed"  p_c stays what `initialise` made it
    feed: the domain whose batches are taken in: "both" (the paper's "mixed"), "source" or "target".
    momentum: the weight of the OLD prototype, for "ema". The released option "momentum 0.9" weighs the NEW mean: 0.1 here.
    m: for "mix"; no source gives the paper's number, 0.5 is ours.

    The released code has rule "mean", fed by both domains, each process for itself and outside the checkpoint. Its inertia:
    after 24,966 pictures a batch moves a prototype by a share of 1e-5 to 1e-4.
    A class without pixels keeps its prototype; one never seen is zero and not `seen`. A batch whose sum is not finite (an
    overflow whose step is skipped anyway) changes nothing.
    State in float64, also when the module is moved to a device that has none: there it stays on the CPU, and `prototypes` and
    `seen` are brought to the device.

    Source: ProCA (ECCV 2022), seminar slides "Prototypes initialization" and "Prototypes Updating".

    >>> bank = PrototypeBank(2, 3)
    >>> bank.initialise(ClassSums(2, 3).add(torch.tensor([[3.0, 0.0, 0.0]]), torch.tensor([1])))
    >>> bank.update(torch.zeros(2, 3), torch.tensor([1, 1]), domain="target")
    >>> bank.prototypes.tolist(), bank.seen.tolist()  # a third of one, two thirds of the other
    ([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]], [False, True])
    """

    def __init__(
        self, num_classes: int, dim: int, rule: Rule = "mean", feed: Feed = "both", momentum: float = 0.9, m: float = 0.5
    ):
        super().__init__()
        if rule not in ("mean", "ema", "mix", "fixed") or feed not in ("both", "source", "target"):
            raise ValueError(
                f"PrototypeBank got rule {rule!r} and feed {feed!r}; choose a rule of mean, ema, mix, fixed and a feed of "
                "both, source, target."
            )
        if not (0 <= momentum <= 1 and 0 <= m <= 1):
            raise ValueError(f"momentum is {momentum} and m is {m}; both are shares, 0 to 1.")
        self.rule, self.feed, self.momentum, self.m = rule, feed, momentum, m
        sets = 2 if rule == "mix" else 1
        self.register_buffer("mean", torch.zeros(sets, num_classes, dim, **long_sums()))
        self.register_buffer("count", torch.zeros(sets, num_classes, **long_sums()))

    def initialise(self, sums: ClassSums, domain: Domain = "source") -> None:
        """p_c = sum F 1[Y = c] / sum 1[Y = c] over a whole data set, of which each process gives the sums of its part."""
        sums, k = sums.total(), self._set(domain)
        self.mean[k], self.count[k] = sums.mean(), sums.counts

    def update(self, features: Tensor, labels: Tensor, domain: Domain, ignore_index: int = IGNORE) -> None:
        """Take in a batch: features (N, D, H, W) with labels (N, H, W), or (N, D) with (N,); `ignore_index` does not count."""
        k = self._set(domain)
        if self.rule == "fixed" or self.feed not in ("both", domain):
            return
        batch = ClassSums(*self.mean.shape[1:], device=self.mean.device).add(features, labels, ignore_index).total()
        self._take(k, batch.mean(), batch.counts)

    def _take(self, k: int, new: Tensor, n_new: Tensor) -> None:
        n, p = self.count[k], self.mean[k]
        there = (n_new > 0) & new.isfinite().all(dim=1)
        if self.rule == "ema":
            share = torch.where(n > 0, 1 - self.momentum, torch.ones_like(n))
        else:
            share = n_new / (n + n_new).clamp(min=1)                                  # n~ / (n + n~)
        self.mean[k] = torch.where(there[:, None], torch.lerp(p, new, share[:, None]), p)
        self.count[k] = n + n_new * there

    @property
    def prototypes(self) -> Tensor:
        """p_c, (C, D) float32: a new tensor, which later updates leave alone."""
        if self.rule != "mix":
            return self.mean[0].float().to(self.here.device)
        n_s, n_t = self.count
        m = torch.full_like(n_s, self.m).masked_fill(n_s == 0, 0).masked_fill(n_t == 0, 1)  # a domain without c does not count
        p = torch.lerp(self.mean[1], self.mean[0], m[:, None])                              # m p^s + (1 - m) p^t
        return p.float().to(self.here.device)

    @property
    def seen(self) -> Tensor:
        """Which classes have a prototype, (C,) bool."""
        return (self.count > 0).any(dim=0).to(self.here.device)

    def _set(self, domain: Domain) -> int:
        if domain not in ("source", "target"):
            raise ValueError(f"domain is {domain!r}; it must be 'source' or 'target'.")
        return 1 if self.rule == "mix" and domain == "target" else 0

    def extra_repr(self) -> str:
        return f"{self.mean.shape[1]} classes, {self.mean.shape[2]} channels, rule={self.rule!r}, feed={self.feed!r}"
