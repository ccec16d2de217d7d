"""Windows of one size, one for each picture: cut, pasted, found by their entropy; and HRDA with them."""

import pytest
import torch
from torch import nn

from course_lib.losses import cross_entropy
from course_lib.methods.supervision import supervised_loss, weighted_loss
from course_lib.networks import HRDA, Box, Boxes, Prediction, build, small
from course_lib.networks.hrda import halved
from course_lib.networks.windows import quarters, uncertain_quarters
from tests.bounds import bound, close
from tests.networks.test_hrda import C, S, network

PLACES = (Box(16, 24, 32, 48), Box(0, 48, 32, 48), Box(32, 0, 32, 48))
BOXES = Boxes(torch.tensor([16, 0, 32]), torch.tensor([24, 48, 0]), 32, 48)


def pictures(height: int = 64, width: int = 96) -> torch.Tensor:
    return torch.randn(3, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(3, 64, 96), (3, 5, 64, 96)])
def test_each_picture_has_its_own_window(shape):
    maps = torch.randn(shape)
    parts = [place.of(picture) for place, picture in zip(PLACES, maps)]
    assert torch.equal(BOXES.of(maps), torch.stack(parts))
    masks = torch.zeros(3, 64, 96, dtype=torch.bool)
    for place, mask in zip(PLACES, masks):
        place.of(mask).fill_(True)
    assert torch.equal(BOXES.mask(maps), masks)
    assert all(torch.equal(place.mask(maps)[0], mask) for place, mask in zip(PLACES, masks))


def test_parts_are_put_where_they_were_and_their_gradient_comes_back():
    maps = torch.randn(3, 5, 64, 96)
    parts = BOXES.of(maps).requires_grad_()
    whole = BOXES.put(parts, (64, 96))
    assert torch.equal(whole, maps * BOXES.mask(maps)[:, None])
    slope = torch.randn(3, 5, 64, 96)
    whole.backward(slope)
    assert torch.equal(parts.grad, BOXES.of(slope))


def test_windows_in_cells():
    place = BOXES.on((64, 96), (16, 24))
    assert (place.top.tolist(), place.left.tolist(), *place[2:]) == ([4, 0, 8], [6, 12, 0], 8, 12)
    assert [Box(*each).on((64, 96), (16, 24)) for each in PLACES] == [Box(4, 6, 8, 12), Box(0, 12, 8, 12), Box(8, 0, 8, 12)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_planted_uncertain_quarter_is_found_in_each_picture(dtype):
    """Sure logits everywhere but in one of the nine, another one in each picture."""
    logits = torch.zeros(9, C, 16, 24, dtype=dtype)
    logits[:, 1] = 6.0
    for picture, place in zip(logits, quarters(16, 24)):
        place.of(picture).mul_(0)
    found = uncertain_quarters(logits, (256, 384))
    wanted = quarters(256, 384)
    assert (found.height, found.width) == (128, 192)
    assert [(box.top, box.left) for box in wanted] == list(zip(found.top.tolist(), found.left.tolist()))
    assert uncertain_quarters(torch.zeros(1, C, 16, 24), (64, 96)).top.tolist() == [0], "of equal ones the first"
    size = 1024
    assert {box.top for box in quarters(size, size)} == {0, 256, 512}  # of the published crop


# ---- HRDA


def same_place(n: int, box: Box) -> Boxes:
    return Boxes(torch.full((n,), box.top), torch.full((n,), box.left), box.height, box.width)


def test_where_all_windows_are_one_it_is_the_pass_with_one():
    x, box = pictures(), PLACES[0]
    found = []
    for each in (box, same_place(3, box)):
        torch.manual_seed(0)
        net = HRDA(small(C, width=8), 8).train()
        torch.manual_seed(1)  # of the dropout
        P = net(x, each)
        (P.logits.square().mean() + P.detail.logits.square().mean()).backward()
        found.append([P.logits.detach(), P.detail.logits.detach(), *(p.grad for p in net.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found))


def test_outside_its_windows_no_picture_depends_on_its_detail():
    x, net = pictures(), network(0.7).train()
    before, inside = net(x, BOXES).logits, net.segmenter.forward

    def changed(image: torch.Tensor) -> Prediction:
        P = inside(image)
        return P if torch.equal(image, halved(x)) else P._replace(logits=P.logits + 5)

    net.segmenter.forward = changed
    differ = (net(x, BOXES).logits != before).any(1)
    assert torch.equal(differ, BOXES.on((64, 96), (16, 24)).mask(differ))


def test_the_detail_lies_where_its_pixels_are():
    """With an attention of 1 the inner cells of each picture's window are the fine answer there."""
    x, net = pictures(), network(1.0).train()
    P, fine = net(x, BOXES), nn.functional.avg_pool2d(x, S)
    for k, place in enumerate(PLACES):
        top, left, height, width = (side // S for side in place)
        inner = (k, slice(None), slice(top + 1, top + height - 1), slice(left + 1, left + width - 1))
        close(P.logits[inner], fine[inner], bound(64, torch.float32, 10.0))
        close(P.detail.logits[k], place.on((64, 96), (16, 24)).of(fine[k]), bound(64, torch.float32, 10.0))


def test_labels_and_weights_are_those_of_each_window():
    x, net = pictures(), network(0.5, detail_weight=0.25).train()
    numbers = torch.Generator().manual_seed(1)
    label, q = torch.randint(0, C, (3, 64, 96), generator=numbers), torch.rand(3, 64, 96, generator=numbers)
    P = net(x, BOXES)
    y, w = (torch.stack([place.of(m) for place, m in zip(PLACES, maps)]) for maps in (label, q))
    both = (P.logits, label), (P.detail.logits, y)
    fused, fine = (cross_entropy(z, t, align_corners=False) for z, t in both)
    close(supervised_loss(P, label), 0.75 * fused + 0.25 * fine, bound(64 * 96, torch.float32, 10.0))
    fused, fine = (cross_entropy(z, t, reduction="none", align_corners=False) for z, t in both)
    wanted = 0.75 * (q * fused).mean() + 0.25 * (w * fine).mean()
    close(weighted_loss(P, label, q), wanted, bound(64 * 96, torch.float32, 10.0))


def test_the_uncertain_quarter_is_read_in_detail_and_nothing_is_drawn():
    """Pictures of one sure colour with a grey quarter: the network's answer there is the least sure."""
    net, x = network().train(), torch.tensor([9.0, 0.0, 0.0]).view(1, 3, 1, 1).repeat(9, 1, 64, 96)
    for picture, place in zip(x, quarters(64, 96)):
        place.of(picture).zero_()
    net(x)
    draws = net.draws.item()
    P = net(x, "uncertain")
    assert list(zip(P.detail.box.top.tolist(), P.detail.box.left.tolist())) == [(b.top, b.left) for b in quarters(64, 96)]
    assert not P.detail.logits.any() and net.draws.item() == draws
    inside = P.detail.box.on((64, 96), (16, 24)).mask(P.logits)
    assert torch.equal(inside, P.logits.detach().amax(1) < 4.5)


@pytest.mark.parametrize("name, options", [
    ("efficientnet_lite0", {"pretrained": False}), ("mit", {"size": "b0"}),
    ("deeplab_v2", {"form": "adaptsegnet_single", "blocks": (1, 1, 1, 1)}),  # grids that round up
])  # fmt: skip
def test_other_networks_and_the_meta_device(name, options):
    for device in ("cpu", "meta"):
        with torch.device(device):
            net = build("hrda", C, seed=None if device == "meta" else 0, of=name, attention_width=8, **options).train()
            P = net(torch.zeros(2, 3, 64, 128), "uncertain")
        assert P.logits.shape == (2, C, 64 // net.stride, 128 // net.stride) and P.detail.box.top.shape == (2,)
        P.logits.sum().backward()


def test_errors_say_what_came_and_what_was_wanted():
    net, x = network().train(), pictures()
    with pytest.raises(ValueError, match="got box='random'; it wants a Box, Boxes, 'uncertain' or None"):
        net(x, "random")
    with pytest.raises(ValueError, match="multiples of 32 where windows are chosen by their entropy; got 96x80"):
        net(pictures(80, 96), "uncertain")
    with pytest.raises(ValueError, match="Got windows of 3 pictures for a batch of 2; it wants one for each"):
        net(x[:2], BOXES)
    for wrong in (BOXES._replace(height=36), BOXES._replace(height=72), BOXES._replace(width=0)):
        with pytest.raises(ValueError, match="inside, all multiples of 8, twice the network's stride"):
            net(x, wrong)
