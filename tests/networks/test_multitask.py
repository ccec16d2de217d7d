"""Two tasks on one encoder: shapes, the exchange between the decoders, what learns, and the start after a stage of depth."""

import copy

import pytest
import torch
from torch import nn

from course_lib.losses import berhu
from course_lib.methods import OptimiserSettings
from course_lib.methods.optimisers import segmenter_optimiser
from course_lib.networks import MultiTask, Prediction, Segmenter, blank_options, build, multitask
from course_lib.networks.multitask import Decoder, Message
from course_lib.teacher import EMA
from tests.bounds import bound, close, far

C, WIDTH = 5, 16
NETWORKS = {
    "small": dict(width=16),
    "efficientnet_lite0": dict(pretrained=False),
    "efficientnet_lite0, frozen": dict(pretrained=False, norm="frozen", frozen_blocks=3),
    "mit": dict(size="b0"),
    "deeplab_v2": dict(form="proca", blocks=(1, 1, 1, 1)),
    "deeplab_v2, two heads": dict(form="adaptsegnet", blocks=(1, 1, 1, 1)),
}
GRIDS = {"small": (16, 24), "efficientnet_lite0": (16, 24), "mit": (16, 24), "deeplab_v2": (17, 25)}


def network(name: str = "small", tasks: str = "both", **options) -> MultiTask:
    torch.manual_seed(0)
    options = {"decoder_width": WIDTH, "decoder_norm": "group", "rates": (1, 2)} | NETWORKS[name] | options
    return multitask(C, name.partition(",")[0], tasks, **options)


def pictures(n: int = 2, height: int = 64, width: int = 96, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("tasks", ["both", "segmentation", "depth"])
def test_shapes_and_ranges(name, tasks):
    net = network(name, tasks).train()
    P = net(pictures())
    h, w = P.pyramid[0].shape[2:]
    assert (h, w) in (GRIDS[name.partition(",")[0]], (16, 24))
    assert P.features.shape == (2, WIDTH, h, w) and P.logits.shape == (2, C, h, w) and not P.align_corners
    assert net.feature_dim == WIDTH and [x.shape[1] for x in P.pyramid] == list(net.pyramid_channels)
    assert (P.disparity is not None) == net.gives_disparity == (tasks != "segmentation")
    assert (P.aux_logits is not None) == (P.aux_disparity is not None) == (tasks == "both")
    for D in (P.disparity, P.aux_disparity):
        assert D is None or (D.shape == (2, h, w) and D.dtype == torch.float32 and 0 < D.min() and D.max() < 1)


def test_outputs_are_those_of_the_equations():
    net, x = network().eval(), pictures()
    with torch.no_grad():
        P, maps = net(x), net.segmenter(x).pyramid
        S, G = net.decoders["segmentation"](maps), net.decoders["depth"](maps)
        to_S, to_G = net.messages["depth"], net.messages["segmentation"]
        gate = [m.attention(y).sigmoid() for m, y in ((to_S, G), (to_G, S))]
        new_S, new_G = S + to_S.message(G) * gate[0], G + to_G.message(S) * gate[1]
        Z, D = net.finals["segmentation"](new_S), net.finals["depth"](new_G)[:, 0].sigmoid()
    rounding = bound(9 * WIDTH * 4, torch.float32, 10.0)
    for found, wanted in ((P.logits, Z), (P.disparity, D), (P.features, new_S), (P.aux_logits, net.outputs["segmentation"](S)),
                          (P.aux_disparity, net.outputs["depth"](G)[:, 0].sigmoid())):  # fmt: skip
        close(found, wanted.detach(), rounding)


def test_the_gate_begins_at_a_half_and_then_opens_by_place():
    message, x = Message(4), torch.randn(1, 4, 6, 6)
    assert torch.equal(message(x), message.message(x) * 0.5)
    nn.init.normal_(message.attention.weight)
    assert far(message(x), message.message(x) * 0.5, 1e-2)


def test_each_task_learns_from_the_other_but_only_by_messages():
    def gradients(net: MultiTask, loss) -> set[str]:
        net.zero_grad()
        loss(net(pictures())).backward()
        return {name for name, p in net.named_parameters() if p.grad is not None and p.grad.any()}

    net = network()
    of_depth = gradients(net, lambda P: berhu(P.disparity, torch.full((2, 64, 96), 0.3)))
    of_classes = gradients(net, lambda P: P.logits.square().mean())
    for found, own, other in ((of_depth, "depth", "segmentation"), (of_classes, "segmentation", "depth")):
        assert any(name.startswith(f"decoders.{own}.") for name in found)
        assert any(name.startswith(f"decoders.{other}.") for name in found), "through the message"
        assert not any(name.startswith((f"outputs.{other}", f"finals.{other}")) for name in found)
        assert any(name.startswith("segmenter.") for name in found)
    first = gradients(net, lambda P: P.aux_logits.square().mean())
    assert first and not any("depth" in name or "messages" in name for name in first), "the intermediate output is before them"


@pytest.mark.parametrize("name", NETWORKS)
def test_the_head_inside_rests_and_all_else_is_in_one_group(name):
    net = network(name)
    backbone, heads = ({id(p) for p in group} for group in (net.backbone_parameters(), net.head_parameters()))
    learning = {id(p): n for n, p in net.named_parameters() if p.requires_grad}
    assert not backbone & heads and backbone | heads == learning.keys()
    loss = net(pictures())
    sum(x.float().sum() for x in (loss.logits, loss.aux_logits, loss.disparity, loss.aux_disparity)).backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad), "nothing that learns is left out"
    rests = {id(p) for p in net.segmenter.head_parameters()} & backbone
    assert not rests, [learning[i] for i in rests]
    groups = segmenter_optimiser(net, OptimiserSettings(lr=0.1, head_factor=10.0)).param_groups
    assert {id(p) for g in groups if g["name"] == "head" for p in g["params"]} == heads


def test_the_pyramid_of_a_network_is_that_of_its_predictions():
    for name, options in NETWORKS.items():
        torch.manual_seed(0)
        net, x = build(name.partition(",")[0], C, **options).eval(), pictures()
        with torch.no_grad():
            for found, wanted in zip(net.pyramid(x), net(x).pyramid, strict=True):
                assert torch.equal(found, wanted), name


# ---- the start after a stage of depth


def test_a_decoder_of_classes_begins_as_the_decoder_of_depth():
    depth = network(tasks="depth")
    for net in (network(tasks="segmentation"), network(tasks="both")):
        own = copy.deepcopy(net.state_dict())
        with torch.no_grad():
            for p in depth.parameters():
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(7)))
        learnt = depth.state_dict()
        net.begin_with(learnt)
        new = net.state_dict()
        assert all(torch.equal(new[n], v) for n, v in learnt.items() if n.startswith("segmenter."))
        for n, v in learnt.items():
            if n.startswith("decoders.depth."):
                assert torch.equal(new[n.replace("depth", "segmentation")], v)
                assert n not in new or torch.equal(new[n], v)
        for n in new:
            if n.startswith(("messages.", "finals.", "outputs.segmentation")):
                assert torch.equal(new[n], own[n]), f"{n} was not learnt there"
        if net.tasks == "both":
            assert torch.equal(new["outputs.depth.weight"], learnt["outputs.depth.weight"])


def test_a_trained_decoder_of_classes_stays_what_it_is():
    before, after = network(), network()
    with torch.no_grad():
        for p in before.parameters():
            p.add_(1.0)
    after.begin_with(before.state_dict())
    assert all(torch.equal(v, before.state_dict()[n]) for n, v in after.state_dict().items())


@pytest.mark.parametrize("other", [dict(decoder_width=8), dict(width=24), dict(rates=(1,))])
def test_another_network_is_refused(other):
    with pytest.raises(ValueError, match="are of another network than this multitask: .* Train the stage before with the same"):
        network().begin_with(network(tasks="depth", **other).state_dict())


# ---- what it is part of


def test_a_teacher_follows_it_and_it_is_built_by_name_without_files():
    net = build("multitask", C, seed=1, of="small", width=16, decoder_width=8, decoder_norm="group", rates=[1])
    teacher = EMA(net)
    teacher.follow(net, 0)
    assert torch.equal(teacher(pictures()).disparity, net(pictures()).disparity)
    assert blank_options("multitask", {"tasks": "both"}) == {"tasks": "both", "imagenet": False}
    assert blank_options("multitask", {"of": "efficientnet_lite0"}) == {"of": "efficientnet_lite0", "pretrained": False}


class Own(nn.Module):
    """A network of somebody else with a divisor, which gives depth."""

    divisor = 16

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, num_classes, 3, padding=1, stride=4)

    def forward(self, image):
        x = self.conv(image)
        return Prediction(x, x, pyramid=(x,), disparity=x[:, 0].sigmoid(), aux_disparity=x[:, 1].sigmoid())


def test_a_padded_prediction_keeps_its_disparity():
    from course_lib.networks import adapted

    net = adapted(Own, "own", C)
    with pytest.warns(UserWarning, match="images of other sizes are padded"):
        P = net(pictures(height=36, width=40))
    assert P.disparity.shape == P.aux_disparity.shape == (2, *P.logits.shape[2:]) and P.align_corners


class Bare(Segmenter):
    num_classes, feature_dim, normalisation = C, 3, "imagenet"


@pytest.mark.parametrize("build_it, words", [
    (lambda: MultiTask(Bare()), "multitask reads the encoder's maps, and Bare gives none. Choose another"),
    (lambda: network(decoder_norm="layer"), "norm='layer'; it wants 'batch', 'sync' .* or 'group'"),
    (lambda: network(tasks="three"), "tasks: it holds 'three', wanted one of"),
    (lambda: multitask(C, "hrda"), "multitask of 'hrda': it wants a network with an encoder"),
])  # fmt: skip
def test_what_cannot_be_built_is_refused(build_it, words):
    with pytest.raises(ValueError, match=words):
        build_it()


def test_the_published_size_on_the_meta_device():
    with torch.device("meta"):
        net = multitask(19, "deeplab_v2", form="proca", bn="train")
        P = net(torch.empty(2, 3, 512, 512))
    assert P.logits.shape == (2, 19, 128, 128) and P.disparity.shape == (2, 128, 128)
    assert isinstance(net.decoders["depth"], Decoder) and len(net.decoders["depth"].context) == 4


def test_half_precision_gives_disparities_in_float32():
    with torch.autocast("cpu", torch.bfloat16):
        assert network()(pictures()).disparity.dtype == torch.float32
