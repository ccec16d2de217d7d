"""Every convolution, normalisation and interpolation of every network, in float32, within the rounding of its own arithmetic.

Two float32 runs of the same network (with oneDNN or without, in one memory format or the other) may differ by 1e-2 in a
gradient, and both be right: an activation within rounding of zero is passed by its ReLU in one run and not in the other, and
its part of the gradient comes or goes as a whole (`test_one_activation_that_crosses_zero_...` below; counted for every network
in `benchmarks/results/gradients.md`). Therefore no bound on whole gradients can be tight. Each single operation has
one: for a sum of n products, in any order,

    |computed - exact| <= gamma(n) * sum |terms|,   gamma(n) = n u / (1 - n u),   u = 2^-24      (Higham 2002, 3.1 to 3.5)

So the operations are recorded where they happen, with the tensors and gradients that they get there, and each is compared with
the same operation in float64.
"""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from benchmarks.gradients import FORMATS, WAYS, difference, example, gradients, networks, one_dnn
from course_lib.networks import NAMES, build
from course_lib.networks.pointwise import BLOCK, PointwiseConv2d
from tests.bounds import bound, close

U = 2.0**-24  # half the distance of 1 to the next float32
NETWORKS = networks()


def gamma(n: Tensor | float) -> Tensor | float:
    return n * U / (1 - n * U)


# ---- the operations of a run ----------------------------------------------------------------------------------------


@dataclass
class Call:
    """One operation where it happened: arguments, and the gradient that its output got."""

    func: Callable
    args: list[Any]
    gradient: list[Tensor] = field(default_factory=list)

    def run(self, change: Callable[[Tensor], Tensor] = lambda t: t.clone()) -> list[Tensor]:
        """Output and gradients at input, weight and bias, all tensors `change`d beforehand."""
        args = [_changed(a, change) if isinstance(a, Tensor) else a for a in self.args]
        output = self.func(*args)
        trained = [a for a in args if isinstance(a, Tensor) and a.requires_grad]
        return [output.detach(), *torch.autograd.grad(output, trained, change(self.gradient[0]))]


def _changed(t: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    return change(t.detach()).requires_grad_(t.requires_grad)


class Recorder(TorchFunctionMode):
    """Keep every call of a bounded operation."""

    def __init__(self):
        super().__init__()
        self.calls: list[Call] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func not in BOUNDS:
            return func(*args, **kwargs)
        if kwargs:
            call = signature(func).bind(*args, **kwargs)
            call.apply_defaults()
            args = call.args
        call = Call(func, [_kept(a, func, i) if isinstance(a, Tensor) else a for i, a in enumerate(args)])
        output = func(*args)
        if output.requires_grad:
            output.register_hook(call.gradient.append)
            self.calls.append(call)
        return output


def _kept(t: Tensor, func: Callable, index: int) -> Tensor:
    """A copy, for later operations may write into `t`; the running statistics of a normalisation have no gradient."""
    return t.detach().clone().requires_grad_(func is not F.batch_norm or index not in (1, 2))


def double(t: Tensor) -> Tensor:
    return t.detach().double().contiguous()


# ---- the bounds: of the output and of each gradient, from the operation's arithmetic --------------------------------


def conv_bounds(call: Call) -> list[Tensor]:
    """Output and gradients are sums of products: run on |tensors| it gives the size of the sums, run on ones their length."""
    sizes = call.run(lambda t: double(t).abs())
    terms = call.run(lambda t: torch.ones_like(double(t)))
    return [gamma(n + 1) * size for n, size in zip(terms, sizes)]  # + 1: the product itself


def norm_bounds(call: Call) -> list[Tensor]:
    """y = (x - m) r w + b, r = 1 / sqrt(v + eps); m and v over a group of an image, or over a channel of the batch.

    dm, dr bound the error of m and the relative one of r. v is taken as mean(x^2) - m^2, the less accurate of the usual ways.
    """
    if call.func is F.group_norm:
        x, groups, w, b, eps = call.args
        x, (N, C) = double(x), call.args[0].shape[:2]

        def mean(t: Tensor) -> Tensor:
            return t.view(N, groups, -1).mean(2).repeat_interleave(C // groups, 1)[:, :, None, None]

        n = x[0].numel() // groups
    else:
        x, m, v, w, b, training, _, eps = call.args
        x, n = double(x), x[:, 0].numel()

        def mean(t: Tensor) -> Tensor:
            return t.mean((0, 2, 3), keepdim=True)

    w, b, gy = double(w).view(1, -1, 1, 1), double(b).view(1, -1, 1, 1), double(call.gradient[0])
    moving = call.func is F.group_norm or training
    if moving:
        m, v = mean(x), mean(x**2) - mean(x) ** 2
        dm, dv = gamma(n) * mean(x.abs()), 4 * gamma(n) * mean(x**2)
    else:
        m, v = double(m).view(1, -1, 1, 1), double(v).view(1, -1, 1, 1)
        dm, dv = torch.zeros_like(m), torch.zeros_like(v)
    r, dr = (v + eps).rsqrt(), dv / (2 * (v + eps)) + 2 * U
    near = x.abs() + m.abs()                                                          # size of the terms of x - m
    g, sums = (w * gy).abs(), lambda t: t.sum((0, 2, 3))
    dy = w.abs() * r * (dm + near * (dr + 4 * U)) + 4 * U * b.abs()
    dgx = r * g * (dr + 4 * U)
    if moving:  # gx = r (w gy - mean(w gy) - x^ mean(w gy x^))
        hat = near * r
        size = r * (g + mean(g) + hat * mean(g * hat))
        dgx = size * (gamma(n + 8) + 3 * dr) + r * dm * r * (mean(g * hat) + hat * mean(g))
    length = x[:, 0].numel()
    dgw = sums(gy.abs() * r * (near * (gamma(length + 4) + dr) + dm))
    return [dy, dgx, dgw, gamma(length) * sums(gy.abs())]


def interpolation_bounds(call: Call) -> list[Tensor]:
    """A mean of four pixels, whose weights are differences of rounded coordinates (scale, product, shift: three roundings)."""
    x, gy = call.args[0], call.gradient[0]
    weights = 3 * U * sum(x.shape[2:])
    terms = 1.0
    for before, after in zip(x.shape[2:], gy.shape[2:]):
        terms *= 2 * -(-after // before) + 2                                           # outputs that read one input pixel
    forward = 4 * x.detach().abs().max().double() * (weights + gamma(6))
    return [forward.expand(gy.shape), (terms * gy.abs().max().double() * (weights + gamma(terms + 2))).expand(x.shape)]


BOUNDS = {F.conv2d: conv_bounds, F.group_norm: norm_bounds, F.batch_norm: norm_bounds, F.interpolate: interpolation_bounds}


def excess(call: Call) -> float:
    """The largest error of output and gradients over its bound: at most 1 where the operation is right."""
    worst = 0.0
    for found, exact, allowed in zip(call.run(), call.run(double), BOUNDS[call.func](call), strict=True):
        error = (found.double() - exact).abs()
        worst = max(worst, (error / allowed).nan_to_num(0.0, posinf=float("inf")).max().item())  # 0 / 0: exact
    return worst


def calls_of(network: nn.Module, x: Tensor, layout: str) -> list[Call]:
    """The operations of one forward and backward pass in train mode."""
    network = network.train().to(memory_format=FORMATS[layout])
    with Recorder() as recorder:
        outputs = network(x.contiguous(memory_format=FORMATS[layout]))
    generator = torch.Generator().manual_seed(2)
    parts = [outputs] if isinstance(outputs, Tensor) else [outputs.logits, outputs.aux_logits]
    sum((part * torch.randn(part.shape, generator=generator)).mean() for part in parts if part is not None).backward()
    return [call for call in recorder.calls if call.gradient]


@pytest.mark.parametrize("way", [
    pytest.param(way, id=f"{'oneDNN' if way[0] else 'plain'}-{way[1]}", marks=[pytest.mark.full] * (way[1] == "contiguous"))
    for way in WAYS
])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_operation_is_within_the_rounding_of_its_arithmetic(name, way):
    network = NETWORKS[name]()
    with one_dnn(way[0]):
        calls = calls_of(network, example(network, (33, 50)).float(), way[1])
        assert len(calls) >= sum(isinstance(module, nn.Conv2d) for module in network.modules()) / 2
        worst, index = max((excess(call), i) for i, call in enumerate(calls))
    assert worst <= 1, f"{calls[index].func.__name__} of {[tuple(a.shape) for a in calls[index].args if isinstance(a, Tensor)]}"


def test_a_wrong_operation_exceeds_its_bound():
    """A convolution that reads one weight of 288 wrongly, by a thousandth, or that sums in bfloat16."""
    x, w = torch.randn(2, 32, 9, 9, requires_grad=True), torch.randn(8, 32, 3, 3, requires_grad=True)

    def wrong(x: Tensor, w: Tensor, how: str) -> Tensor:
        if x.dtype == torch.float64:
            return F.conv2d(x, w)
        off = torch.ones_like(w)
        off[:, 3, 1, 1] = 1.001
        return F.conv2d(x, w * off) if how == "weight" else F.conv2d(x.bfloat16(), w.bfloat16()).float()

    BOUNDS[wrong] = conv_bounds
    try:
        for how in ("weight", "bfloat16"):
            assert excess(Call(wrong, [x, w, how], [torch.randn(2, 8, 7, 7)])) > 1
    finally:
        del BOUNDS[wrong]


def test_the_cases_are_all_networks_there_are():
    assert {name.split(",")[0] for name in NETWORKS} == {*NAMES, "Discriminator"}


# ---- why whole gradients differ by more -----------------------------------------------------------------------------


def test_one_activation_that_crosses_zero_changes_a_gradient_by_more_than_all_rounding():
    """In float64: one pre-activation of the stem is moved from just above zero to just below it.

    The output moves by that distance, 1e-12 of the largest activation, the gradient by the whole part of one pixel. With the
    branches held, the gradient moves as little as the output. This is what happens between float32 runs, at any width.
    """
    network = build("small", 4, seed=0, width=16).double()
    x = example(network, (64, 96))
    before, branches = gradients(network, x, "contiguous")
    norm = network.stem[1]
    with torch.no_grad():
        channel = norm(network.stem[0](x))[:, 0]
        smallest = channel[channel > 0].min()
        norm.bias[0] -= smallest * (1 + 1e-6)                                          # its channel's smallest, and no other
        moved = smallest / channel.abs().max()
    after, crossed = gradients(network, x, "contiguous")
    crossed.held = branches.found
    held, _ = gradients(network, x, "contiguous", branches.found)
    assert crossed.crossed() == 1
    assert difference(after, before)[0] > 50 * difference(held, before)[0], moved


# ---- the operation that is avoided ----------------------------------------------------------------------------------


class TestPointwiseConv2d:
    @pytest.mark.parametrize("stride", [1, 2, 3])
    @pytest.mark.parametrize("size", [(1, 1), (2, 5), (16, 9)])
    def test_it_is_torchs_function(self, stride, size):
        ours, torchs = PointwiseConv2d(4, 6, stride).double(), nn.Conv2d(4, 6, 1, stride=stride).double()
        torchs.load_state_dict(ours.state_dict())  # same names, same shapes
        x = torch.randn(2, 4, *size, dtype=torch.float64)                              # float64 never takes the faulty way
        x_ours, x_torchs = x.clone().requires_grad_(), x.clone().requires_grad_()
        y_ours, y_torchs = ours(x_ours), torchs(x_torchs)
        (y_ours**2).sum().backward(), (y_torchs**2).sum().backward()
        # of both computations: a sum over channels, then one over channels (of x) or pixels (of the weight)
        pixels, largest = y_ours[:, 0].numel(), 2 * max(x.abs().max(), ours.weight.abs().max(), 1) * (y_ours.abs().max() + 1)
        tolerance = bound(5 + max(6, pixels), torch.float64, largest * max(6, pixels)) * 2
        for a, b in ((y_ours, y_torchs), (x_ours.grad, x_torchs.grad), (ours.weight.grad, torchs.weight.grad)):
            close(a.detach(), b.detach(), tolerance)

    def test_a_strided_convolution_of_few_channels_is_never_torchs_own(self, monkeypatch):
        strides, convolve = [], F.conv2d

        def spy(x, w, b, stride=(1, 1), *rest):
            strides.append(stride)
            return convolve(x, w, b, stride, *rest)

        monkeypatch.setattr(F, "conv2d", spy)
        for inside in (1, BLOCK - 1, BLOCK):
            PointwiseConv2d(inside, 3, 2)(torch.zeros(1, inside, 4, 4))
        assert strides == [(1, 1), (1, 1), (2, 2)]  # wide ones keep their numbers

    def test_channels_last_stays_in_both_directions(self):
        x = torch.randn(2, 4, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
        y = PointwiseConv2d(4, 8, 2)(x)
        (slope,) = torch.autograd.grad(y.sum(), x)
        assert y.is_contiguous(memory_format=torch.channels_last) and slope.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", NETWORKS)
def test_no_network_has_a_strided_1x1_convolution_of_torchs(name):
    found = [
        path
        for path, module in NETWORKS[name]().named_modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.stride != (1, 1)
        if not isinstance(module, PointwiseConv2d)
    ]
    assert not found, f"write them as PointwiseConv2d: {found}"


NARROW = """
import torch
from benchmarks.gradients import difference, example, gradients
from course_lib.networks import build
torch.set_num_threads(1)
for width in (8, 11, 16, 23, 24):
    network = build("small", 3, seed=0, width=width)
    x = example(network, (128, 128))
    exact, branches = gradients(network.double(), x, "contiguous")
    for _ in range(3):
        found, _ = gradients(network.float(), x.float(), "channels_last", branches.found)
        assert difference(found, exact)[0] < 1e-4, (width, difference(found, exact))
    print(width)
"""


def test_narrow_networks_train_in_channels_last():
    """In a process of its own: with torch's strided convolution it died here (see `PointwiseConv2d`)."""
    ended = subprocess.run([sys.executable, "-c", NARROW], capture_output=True, encoding="utf-8", timeout=300)
    assert (ended.returncode, ended.stdout.split()) == (0, ["8", "11", "16", "23", "24"]), ended.stderr
