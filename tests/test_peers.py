"""The libraries that people know, as oracles: value and gradient, on random and on degenerate inputs.

A part runs in `make test`; the whole, with more seeds, sizes and temperatures, in `make full`. Cityscapes' own script, file by
file: tests/evaluation/test_official.py. Step by step with a memory: tests/losses/test_memory_bank.py.
"""

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from course_lib.evaluation import Confusion
from course_lib.evaluation.probe import knn
from course_lib.losses import MemoryBank, cross_entropy, entropy, nt_xent, prototype_contrast
from tests.bounds import Tolerance, bound, close
from tests.oracles import nt_xent as oracle


class Peer:
    """A library that is imported by the first test that uses it: every worker collects this file, one runs it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, name: str):
        return getattr(pytest.importorskip(self.name), name)


lightly = Peer("lightly.loss")
metric_learning = Peer("pytorch_metric_learning.losses")
metrics = Peer("sklearn.metrics")
torchmetrics = Peer("torchmetrics.classification")
neighbors = Peer("sklearn.neighbors")
official = Peer("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")


def mostly_full(quick: list, more: list) -> list:
    """Parameters for `make test`, and those that `make full` adds."""
    return [*quick, *(pytest.param(value, marks=pytest.mark.full) for value in more)]


SEEDS = mostly_full([0], list(range(1, 25)))
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def with_gradient(loss, *inputs: Tensor) -> tuple[Tensor, Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    value = loss(*leaves)
    return value.detach(), torch.cat([slope.flatten() for slope in torch.autograd.grad(value, leaves)])


def strided(x: Tensor) -> Tensor:
    """The same numbers, not contiguous."""
    wide = torch.stack([x, torch.full_like(x, math.nan) if x.is_floating_point() else torch.full_like(x, -9)], dim=-1)
    return wide[..., 0]


def theirs(tau: float, shortest: float = 1.0) -> Tolerance:
    """What lightly adds: exponents up to 1 / tau are subtracted after rounding, and the loss is log softmax, whose errors
    do not shrink with it. In a gradient times 2 / (tau |z|)."""
    return bound(4, torch.float64, 2 / tau / shortest)


# ---- NT-Xent --------------------------------------------------------------------------------------------------------

PAIRS = ["random", "alike", "swapped", "one coordinate", "not contiguous"]


def pairs(kind: str, n: int, d: int, seed: int) -> tuple[Tensor, Tensor]:
    a, b = torch.randn(2, n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if kind == "alike":
        a = b = a[:1].expand(n, d)
    if kind == "swapped":
        b = a.flip(0)
    if kind == "one coordinate":
        a, b = a * torch.eye(d)[0], b * torch.eye(d)[0]
    return (strided(a), strided(b)) if kind == "not contiguous" else (a + 0, b + 0)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n, d", [(1, 3), (5, 8), pytest.param(40, 64, marks=pytest.mark.full)])
@pytest.mark.parametrize("tau", mostly_full([0.05, 0.5], [0.01, 0.1, 3.0, 50.0]))
@pytest.mark.parametrize("kind", PAIRS)
def test_nt_xent_is_lightlys_and_pytorch_metric_learnings(kind, tau, n, d, seed):
    a, b = pairs(kind, n, d, seed)
    peers = {"lightly": lightly.NTXentLoss(temperature=tau)}
    if n > 1 and d < 64:  # theirs holds 8 n^3 numbers, and gives 0 without a gradient for one pair
        theirs = metric_learning.SelfSupervisedLoss(metric_learning.NTXentLoss(temperature=tau))
        peers["pytorch_metric_learning"] = theirs
    # where all z_k lie on a line the slope is 0: a sum over k of p_ik z_k / (tau |z_i|), with sum p_ik < 2
    cancelled = 2 / (tau * torch.cat([a, b]).norm(dim=1).min())
    for name, peer in peers.items():
        wanted, slope = with_gradient(peer, a, b)
        size = slope if kind not in ("alike", "one coordinate") else cancelled
        for chunk in (None, 3):
            value, gradient = with_gradient(lambda a, b, chunk=chunk: nt_xent(a, b, tau, chunk), a, b)
            close(value, wanted, oracle.rounding(n, d, tau, wanted.item(), torch.float64) * 3, what=name)
            close(gradient, slope, oracle.gradient_rounding(n, d, tau, size, torch.float64) * 3, what=name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", SEEDS)
def test_nt_xent_of_every_format_is_lightlys_of_the_same_numbers_in_float64(dtype, seed):
    a, b = (z.to(dtype) for z in pairs("random", 6, 8, seed))
    wanted = lightly.NTXentLoss(temperature=0.1)(a.double(), b.double()).item()
    close(nt_xent(a, b, 0.1), wanted, oracle.rounding(6, 8, 0.1, wanted, torch.promote_types(dtype, torch.float32)) * 2)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("tau", mostly_full([0.2], [0.02, 5.0]))
@pytest.mark.parametrize("n, size", [(1, 4), (3, 4), (4, 9)])
def test_a_memory_is_lightlys(n, size, tau, seed):
    peer = lightly.NTXentLoss(temperature=tau, memory_bank_size=(size, 5)).double()
    bank = MemoryBank(size, 5).double()
    bank.bank.copy_(peer.memory_bank.bank)
    a, b = pairs("random", n, 5, seed)
    value, gradient = with_gradient(lambda a, b: bank(a, b, tau), a, b)
    wanted, slope = with_gradient(peer, a, b)
    shortest = torch.cat([a, b]).norm(dim=1).min().item()
    close(value, wanted, oracle.rounding(size, 5, tau, wanted.item(), torch.float64) * 3 + theirs(tau))
    close(gradient, slope, oracle.gradient_rounding(size, 5, tau, slope, torch.float64) * 3 + theirs(tau, shortest))


# ---- labelled pixels ------------------------------------------------------------------------------------------------

MAPS = ["random", "one class", "all ignored", "zeros", "sure and wrong", "not contiguous", "one picture"]


def maps(kind: str, seed: int, C: int = 5) -> tuple[Tensor, Tensor]:
    """Logits (N, C, H, W) and labels with ignored pixels."""
    generator = torch.Generator().manual_seed(seed)
    N = 1 if kind == "one picture" else 3
    logits = 3 * torch.randn(N, C, 4, 6, generator=generator, dtype=torch.float64)
    label = torch.randint(0, C, (N, 4, 6), generator=generator)
    label[torch.rand(N, 4, 6, generator=generator) < 0.3] = 255
    if kind == "one class":
        label[label != 255] = 2
    if kind == "all ignored":
        label[:] = 255
    if kind == "zeros":
        logits[:] = 0
    if kind == "sure and wrong":
        logits = 50.0 * F.one_hot((label + 1) % C, C).movedim(-1, 1).double()
    if kind == "not contiguous":
        logits, label = strided(logits), strided(label)
    return logits, label


def terms(C: int, size: float) -> object:
    """Softmax over C classes and a mean over 72 pixels, of logits up to `size`; theirs rounds, too."""
    return bound(2 * (4 * C + 100), torch.float64, size)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", MAPS)
def test_cross_entropy_is_scikit_learns_log_loss(kind, weighted, seed):
    logits, label = maps(kind, seed)
    weight = torch.rand(5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1 if weighted else None
    value = cross_entropy(logits, label, weight).item()
    known = label != 255
    if kind == "all ignored":
        assert value == 0
        return
    p, y = logits.movedim(1, -1)[known].softmax(1).numpy(), label[known].numpy()
    if kind == "sure and wrong":  # theirs keeps probabilities away from 0
        close(value, 50.0, terms(5, 60.0))
        return
    wanted = metrics.log_loss(y, p, labels=range(5), sample_weight=weight[label[known]].numpy() if weighted else None)
    close(value, wanted, terms(5, 30.0))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", MAPS)
def test_entropy_is_that_of_torchs_distribution(kind, seed):
    logits, _ = maps(kind, seed)
    value, gradient = with_gradient(entropy, logits)
    wanted, slope = with_gradient(lambda z: torch.distributions.Categorical(logits=z.movedim(1, -1)).entropy().mean(), logits)
    close(value, wanted, terms(5, 60.0))
    close(gradient, slope, terms(5, 60.0))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("tau", mostly_full([0.1], [0.01, 1.0, 50.0]))
@pytest.mark.parametrize("kind", MAPS)
def test_prototype_contrast_is_pytorch_metric_learnings_normalised_softmax(kind, tau, seed):
    features, label = maps(kind, seed)
    if kind == "zeros":
        features = features + 1
    peer = metric_learning.NormalizedSoftmaxLoss(5, 5, temperature=tau).double()
    prototypes = peer.W.detach().T + 0  # (C, D)
    value, gradient = with_gradient(lambda f: prototype_contrast(f, label, prototypes, tau, "cosine"), features)
    known = label != 255
    if kind == "all ignored":
        assert value == 0 and not gradient.any()
        return
    wanted, slope = with_gradient(lambda f: peer(f.movedim(1, -1)[known], label[known]), features)
    close(value, wanted, terms(5, 4 / tau + 5))
    shortest = features.norm(dim=1)[known].min().item()
    close(gradient, slope, terms(5, (4 / tau + 5) / tau / shortest))


# ---- scores ---------------------------------------------------------------------------------------------------------

ANSWERS = ["random", "one class", "all ignored", "one picture", "not contiguous"]


def answers(kind: str, seed: int) -> tuple[Tensor, Tensor, Confusion]:
    logits, label = maps(kind, seed)
    confusion = Confusion(5)
    confusion.update(logits, label)
    return logits.argmax(1), label, confusion


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ANSWERS)
def test_confusion_and_iou_are_scikit_learns(kind, seed):
    said, label, confusion = answers(kind, seed)
    y, p = label[label != 255].numpy(), said[label != 255].numpy()
    if not len(y):
        assert not confusion.matrix.any() and math.isnan(confusion.miou())
        return
    assert confusion.matrix.tolist() == metrics.confusion_matrix(y, p, labels=range(5)).tolist()
    for over, theirs in (("truth", "true"), ("prediction", "pred"), ("all", "all")):
        wanted = metrics.confusion_matrix(y, p, labels=range(5), normalize=theirs)
        close(confusion.normalised(over).nan_to_num(0), wanted, bound(4, torch.float64))  # theirs has 0 for our nan
    iou = metrics.jaccard_score(y, p, labels=range(5), average=None, zero_division=0)
    close(confusion.iou().nan_to_num(0), iou, bound(4, torch.float64))
    close(confusion.accuracy(), metrics.accuracy_score(y, p), bound(4, torch.float64))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("ignore_index", [255, 1])
@pytest.mark.parametrize("kind", ANSWERS)
def test_confusion_and_iou_are_torchmetrics(kind, ignore_index, seed):
    said, label, confusion = answers(kind, seed)
    if ignore_index == 1:
        label = torch.where(label == 255, 1, label)
        confusion = Confusion(5, ignore_index=1)
        confusion.update(said, label)
    peer = torchmetrics.MulticlassConfusionMatrix(5, ignore_index=ignore_index)
    assert confusion.matrix.tolist() == peer(said, label).tolist()
    for over, theirs in (("truth", "true"), ("prediction", "pred"), ("all", "all")):
        if theirs == "all" and not confusion.matrix.any():
            continue
        wanted = torchmetrics.MulticlassConfusionMatrix(5, ignore_index=ignore_index, normalize=theirs)(said, label)
        close(confusion.normalised(over).nan_to_num(0), wanted, bound(4, torch.float32))
    iou = torchmetrics.MulticlassJaccardIndex(5, average="none", ignore_index=255)(said, label) if ignore_index == 255 else None
    if iou is not None:
        close(confusion.iou().nan_to_num(0), iou, bound(4, torch.float32))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ANSWERS)
def test_iou_is_the_official_function_of_our_table(kind, seed):
    """Theirs takes raw ids: 7 is the first of the 19 classes, 8 the second, then 11, 12, 13."""
    _, _, confusion = answers(kind, seed)
    table, raw = np.zeros((34, 34), dtype=np.ulonglong), [7, 8, 11, 12, 13]
    table[np.ix_(raw, raw)] = confusion.matrix.numpy()
    args = copy.copy(official.args)
    args.evalLabels = raw
    wanted = [official.getIouScoreForLabel(id, table, args) for id in raw]
    close(confusion.iou(), wanted, bound(1, torch.float64), nan_ok=True)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("T", [0.05, 1.0])
@pytest.mark.parametrize("k", [1, 5, 30])
def test_neighbours_are_scikit_learns(k, T, seed):
    generator = torch.Generator().manual_seed(seed)
    h, q = torch.randn(30, 6, generator=generator), torch.randn(20, 6, generator=generator)
    y = torch.randint(0, 4, (30,), generator=generator)
    peer = neighbors.KNeighborsClassifier(k, weights=lambda d: np.exp((1 - d) / T), metric="cosine", algorithm="brute")
    wanted = peer.fit(h.double().numpy(), y.numpy()).predict(q.double().numpy())
    assert knn(h.double(), y, q.double(), 4, k, T).tolist() == wanted.tolist()
