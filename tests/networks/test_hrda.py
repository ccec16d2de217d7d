"""HRDA against its limits: which resolution decides where, that labels follow the window, and where the windows lie."""

import copy
from collections import Counter

import pytest
import torch
from torch import nn

from course_lib.engine.precision import Precision
from course_lib.losses import cross_entropy
from course_lib.methods import OptimiserSettings, SourceOnly
from course_lib.methods.supervision import supervised_loss, weighted_loss
from course_lib.networks import Box, Prediction, Segmenter, build
from course_lib.networks.deeplab import FORMS
from course_lib.networks.hrda import HRDA, halved
from course_lib.teacher import EMA
from tests.bounds import bound, close, far

C, S = 3, 4  # classes, stride
NETWORKS = {
    "small": dict(width=16),
    "efficientnet_lite0": dict(pretrained=False),
    "mit": dict(size="b0"),
    "deeplab_v3plus": dict(blocks=(1, 1, 1, 1)),
    **{f"deeplab_v2, {form}": dict(form=form, blocks=(1, 1, 1, 1)) for form in FORMS},
}
STRIDES = {"small": 4, "efficientnet_lite0": 4, "mit": 4, "deeplab_v3plus": 4} | {f"deeplab_v2, {form}": 8 for form in FORMS}
MEAN = bound(64, torch.float32, 10.0)  # of a mean over a few pixels, of numbers below 10


class Means(Segmenter):
    """Logits are the means of S x S pixels: the answer at a place is that of the picture there, whatever is round it."""

    normalisation, num_classes, feature_dim, pyramid_channels = "imagenet", C, 3, (3,)

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, image):
        self.sizes.append(tuple(image.shape))
        x = self.scale * nn.functional.avg_pool2d(image, S)
        return Prediction(x, x, pyramid=(x,), align_corners=False)


class Fixed(nn.Module):
    """In place of the attention: the same everywhere."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = a

    def forward(self, pyramid):
        return torch.full_like(pyramid[0], self.a)


def network(a: float | None = None, inside: Segmenter | None = None, **options) -> HRDA:
    torch.manual_seed(0)
    found = HRDA(inside or Means(), 8, **options)
    if a is not None:
        found.attention = Fixed(a)
    return found


def picture(height: int = 64, width: int = 96, seed: int = 0) -> torch.Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def up(x: torch.Tensor, times: int) -> torch.Tensor:
    return nn.functional.interpolate(x, scale_factor=times, mode="bilinear")


@pytest.mark.parametrize("a", [0.0, 0.4, 1.0])
def test_constant_in_constant_out(a):
    x = torch.tensor([1.0, -2.0, 3.0]).view(1, 3, 1, 1).expand(1, 3, 64, 96)
    wanted = x[:, :, ::S, ::S]
    close(network(a).eval()(x).logits, wanted, MEAN)
    found = network(a).train()(x, Box(16, 24, 32, 48)).logits
    for rows, columns in ((slice(0, 3), slice(None)), (slice(4, 12), slice(6, 18)), (slice(13, 16), slice(None))):
        close(found[..., rows, columns], wanted[..., rows, columns], MEAN)  # without the cells next to the window, see HRDA


def test_attention_0_is_the_halved_picture_and_1_the_detail():
    x = picture()
    whole, fine = up(nn.functional.avg_pool2d(x, 2 * S), 2), nn.functional.avg_pool2d(x, S)
    close(network(0.0).eval()(x).logits, whole, MEAN)
    close(network(1.0).eval()(x).logits, fine, MEAN)
    box = Box(16, 24, 32, 48)
    found = network(1.0).train()(x, box).logits
    inner = (..., slice(5, 11), slice(7, 17))  # the window without its outermost cells, where up() of the attention mixes
    close(found[inner], fine[inner], MEAN)
    assert far(found[inner], whole[inner], 1e-2)


def test_outside_the_window_nothing_depends_on_the_detail():
    x, box = picture(), Box(16, 24, 32, 48)
    net = network(0.7).train()
    before = net(x, box).logits
    inside = net.segmenter.forward

    def changed(image):  # the network's answer to the window alone is another
        P = inside(image)
        return P._replace(logits=P.logits + 5) if image.shape[2:] == (32, 48) and not torch.equal(image, halved(x)) else P

    net.segmenter.forward = changed
    differ = (net(x, box).logits != before).any(1)[0]
    rows, columns = slice(box.top // S, (box.top + 32) // S), slice(box.left // S, (box.left + 48) // S)
    assert differ[rows, columns].all() and differ.sum() == differ[rows, columns].sum()


def test_labels_and_weights_move_with_the_window():
    """The loss of the detail is that of the fine answer in the window, wherever it lies."""
    x = picture()
    label = torch.randint(0, C, (1, 64, 96), generator=torch.Generator().manual_seed(1))
    q = torch.rand(1, 64, 96, generator=torch.Generator().manual_seed(2))
    net = network(0.5, detail_weight=0.25).train()
    for box in (Box(0, 0, 32, 48), Box(32, 48, 32, 48), Box(8, 16, 32, 48)):
        P = net(x, box)
        inside = (slice(None), slice(box.top, box.top + 32), slice(box.left, box.left + 48))
        fine = cross_entropy(nn.functional.avg_pool2d(x[:, :, *inside[1:]], S), label[inside], align_corners=False)
        fused = cross_entropy(P.logits, label, align_corners=False)
        close(supervised_loss(P, label), 0.75 * fused + 0.25 * fine, bound(64 * 96, torch.float32, 10.0))
        maps = [cross_entropy(z, y, reduction="none", align_corners=False) for z, y in ((P.logits, label),
                (P.detail.logits, label[inside]))]  # fmt: skip
        wanted = 0.75 * (q * maps[0]).mean() + 0.25 * (q[inside] * maps[1]).mean()
        close(weighted_loss(P, label, q), wanted, bound(64 * 96, torch.float32, 10.0))
    assert far(fine, fused, 1e-3)


def test_windows_are_drawn_everywhere_and_again_after_a_resumption():
    net, x = network().train(), picture(64, 64)
    drawn = [net(x).detail.box for _ in range(300)]
    assert {(b.height, b.width) for b in drawn} == {(32, 32)}
    assert set(Counter(b.top for b in drawn)) == set(Counter(b.left for b in drawn)) == {0, 8, 16, 24, 32}
    state = copy.deepcopy(net.state_dict())
    following = [net(x).detail.box for _ in range(5)]
    net.load_state_dict(state)  # what the host remembers of the buffers is read again
    assert [net(x).detail.box for _ in range(5)] == following
    other = network().train()
    other.load_state_dict(state)
    assert [other(x).detail.box for _ in range(5)] == following
    torch.manual_seed(1)
    another = HRDA(Means(), 8).train()
    assert [another(x).detail.box for _ in range(300)] != drawn, "another seed draws other windows"


def test_evaluation_sees_nine_windows_in_one_batch_and_draws_nothing():
    net = network().eval()
    net(picture())
    assert net.segmenter.sizes[1:] == [(1, 3, 32, 48), (9, 3, 32, 48)] and net.draws == 0


def test_a_teacher_sees_the_whole_picture():
    net = network().train()
    teacher = EMA(net).train()
    assert teacher(picture()).detail is None and net(picture()).detail is not None


def test_other_sizes_are_padded_in_evaluation_and_refused_in_training():
    net = network(0.5)
    with pytest.warns(UserWarning, match="hrda wants sizes that 16 divides"):
        found = net.eval()(picture(50, 70))
    assert found.logits.shape[2:] == (13, 18) and found.features.shape[2:] == (6, 9)
    with pytest.raises(ValueError, match="multiples of 16; got 70x50. Set source_size, target_size or crop"):
        net.train()(picture(50, 70))


def test_large_pictures_are_read_window_by_window():
    """As published: windows half a window apart, the mean of their logits at the picture's size."""
    net, x = network(0.5, window=64).eval(), picture(64, 128)
    parts = [net(x[..., left : left + 64]).resized((64, 64)) for left in (0, 32, 64)]
    wanted, count = torch.zeros(1, C, 64, 128), torch.zeros(1, 1, 64, 128)
    for left, part in zip((0, 32, 64), parts):
        wanted[..., left : left + 64] += part
        count[..., left : left + 64] += 1
    close(net(x).logits, wanted / count, MEAN)
    assert net(x).features.shape == (1, 3, 8, 16)
    uneven = net(picture(64, 100)).logits  # the last window ends with the picture
    close(uneven[..., -4:], net(picture(64, 100)[..., -64:]).resized((64, 64))[..., -4:], MEAN)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_with_maps_can_be_inside(name):
    net = build("hrda", C, seed=0, of=name.partition(",")[0], attention_width=16, **NETWORKS[name]).train()
    assert net.stride == STRIDES[name] and net.multiple == 4 * STRIDES[name]
    label = torch.randint(0, C, (2, 128, 128), generator=torch.Generator().manual_seed(0))
    x = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    P = net(x)
    supervised_loss(P, label).backward()
    assert P.logits.shape[2:] == (128 // STRIDES[name], 128 // STRIDES[name])
    unread = ("layer5",) if "adaptsegnet" in name and "single" not in name else ()  # the auxiliary head
    assert not [n for n, p in net.named_parameters() if p.requires_grad and p.grad is None and not n.startswith(
        tuple(f"segmenter.{part}" for part in unread))]  # fmt: skip
    heads, backbone = ({id(p) for p in parameters()} for parameters in (net.head_parameters, net.backbone_parameters))
    assert not heads & backbone and heads | backbone >= {id(p) for p in net.parameters() if p.requires_grad}
    assert torch.isfinite(net.eval()(x).logits).all()


def test_the_cost_counts_pixels():
    net = network()
    seen = net.segmenter.sizes
    for mode, cost in ((True, net.cost.training), (False, net.cost.whole)):
        seen.clear()
        net.train(mode)(picture(64, 64))
        assert sum(n * h * w for n, _, h, w in seen) == cost * 64 * 64
    large = HRDA(Means(), 8, window=64).eval()
    large(picture(64, 128))
    assert sum(n * h * w for n, _, h, w in large.segmenter.sizes[1:]) == large.passes_of((64, 128)) * 64 * 128
    assert large.passes_of((64, 64)) == large.cost.whole and large.passes_of((64, 128)) == 1.5 * large.cost.whole
    seen.clear()
    net.pyramid(picture(64, 64))
    assert sum(n * h * w for n, _, h, w in seen) == net.cost.pyramid * 64 * 64


def test_source_only_trains_it_and_bfloat16_stays_finite():
    net = build("hrda", C, seed=0, of="small", width=16, attention_width=16)
    method = SourceOnly(net, optimiser=OptimiserSettings(lr=1e-3)).train()
    label = torch.randint(0, C, (2, 64, 64), generator=torch.Generator().manual_seed(0))
    batch = type("Batch", (), {"image": picture(64, 64).expand(2, 3, 64, 64), "label": label})
    for precision in ("fp32", "bf16"):
        with Precision(precision, "cpu").autocast():
            (losses,) = method.losses(batch)
        assert torch.isfinite(losses["segmentation"])


def test_errors_say_what_came_and_what_was_wanted():
    class Flat(Means):
        pyramid_channels = ()

    with pytest.raises(ValueError, match="hrda reads the encoder's maps, and Flat gives none. Choose another"):
        HRDA(Flat())
    with pytest.raises(ValueError, match="detail_weight=1.5; it wants a share"):
        HRDA(Means(), detail_weight=1.5)
    with pytest.raises(ValueError, match="hrda of 'hrda'"):
        build("hrda", C, of="hrda")
    net, x = network().train(), picture(64, 64)
    for box in (Box(0, 4, 32, 32), Box(40, 0, 32, 32), Box(-8, 0, 32, 32), Box(0, 0, 0, 32)):
        with pytest.raises(ValueError, match=r"Got the box \(.*\) of a picture of 64x64; it wants .* all multiples of 8"):
            net(x, box)
