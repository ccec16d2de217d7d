"""DeepLabV3+: counts derived by hand, the forward pass beside a plain transcription, one picture, starts, cost."""

import pytest
import torch
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.segmentation import deeplabv3_resnet50

from course_lib.engine.memory import peak_bytes
from course_lib.evaluation.scoring import reestimate_statistics
from course_lib.losses import cross_entropy
from course_lib.networks import build, deeplab_v2, deeplab_v3plus, parameter_groups
from course_lib.networks.deeplab_v3plus import FORMS, ImagePooling
from course_lib.networks.sync import synchronised
from tests.bounds import bound, close, far, roundings
from tests.networks import transcription
from tests.processes import together

TINY = (1, 1, 1, 1)


def tiny(form: str = "paper", num_classes: int = 3, blocks=TINY, **options):
    torch.manual_seed(0)
    return deeplab_v3plus(num_classes, form, blocks=blocks, **options)


def on_meta(form: str = "paper", **options):
    with torch.device("meta"):
        return deeplab_v3plus(19, form, **options)


def moved(network: nn.Module) -> nn.Module:
    """Statistics, scales and shifts away from their first values, so that none of them can be left out unseen."""
    numbers = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.running_mean.copy_(torch.rand(norm.num_features, generator=numbers) / 5)
            for value in (norm.running_var, norm.weight):
                value.copy_(torch.rand(norm.num_features, generator=numbers) + 0.5)
            norm.bias.copy_(torch.rand(norm.num_features, generator=numbers) - 0.3)
    return network.eval()


# ---- sizes and counts


def resnet_weights(blocks: tuple[int, ...]) -> int:
    """conv1 and bn1; of each block I -> w -> w -> 4w with three normalisations, and the first one's shortcut."""
    count = 64 * 3 * 7 * 7 + 2 * 64
    inside = 64
    for number, width in zip(blocks, (64, 128, 256, 512)):
        count += inside * 4 * width + 2 * 4 * width  # the shortcut
        for _ in range(number):
            count += inside * width + 2 * width + 9 * width**2 + 2 * width + 4 * width**2 + 2 * 4 * width
            inside = 4 * width
    return count


@pytest.mark.parametrize(("depth", "form", "published"), [(101, "paper", 59_343_795), (50, "paper", 40_351_667),
                                                          (101, "reco", 58_753_459), (50, "semiseg", 40_351_667)])  # fmt: skip
def test_parameters_are_those_derived_by_hand(depth, form, published):
    context = 2 * (2048 * 256 + 512) + 3 * (9 * 2048 * 256 + 512) + 5 * 256 * 256 + 512  # 1x1, pooling; three 3x3; 1x1 of all
    low = 256 * 48 + 96
    decoder = 9 * 304 * 256 + 512 + (9 * 256 * 256 + 512 if form != "reco" else 0)
    resnet = resnet_weights({50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}[depth])
    wanted = resnet + context + low + decoder + 256 * 19 + 19
    assert sum(p.numel() for p in on_meta(form, depth=depth).parameters()) == wanted == published
    assert resnet == {50: 25_557_032, 101: 44_549_160}[depth] - (2048 * 1000 + 1000)  # torchvision's, without fc


@pytest.mark.parametrize(("size", "grid"), [((512, 1024), (128, 256)), ((512, 512), (128, 128)), ((321, 321), (81, 81))])
def test_grids(size, grid):
    P = on_meta(blocks=TINY)(torch.empty(2, 3, *size, device="meta"))
    assert P.logits.shape == (2, 19, *grid) and P.features.shape == (2, 304, *grid) and P.align_corners
    assert [f.shape[1] for f in P.pyramid] == [256, 512, 1024, 2048]
    cells = [tuple(-(-side // stride) for side in size) for stride in (4, 8, 16, 16)]
    assert [tuple(f.shape[2:]) for f in P.pyramid] == cells


def test_what_contrast_reads():
    """g, beside the decoder, or d, the classifier's input."""
    image = torch.randn(2, 3, 64, 64)
    for form, width in (("paper", 304), ("reco", 304), ("semiseg", 256)):
        network = tiny(form).eval()
        P = network(image)
        assert P.features.shape[1] == width == network.feature_dim
        again = network.classifier(P.features if width == 256 else network.decoder(P.features))
        assert torch.equal(again, P.logits)


# ---- numbers


@pytest.mark.parametrize(("form", "convs"), [("paper", 2), ("reco", 1)])
@torch.no_grad()
def test_the_forward_pass_is_that_of_the_transcription(form, convs):
    """Blocks enough to have a first one and another in the dilated layer, a grid that does not divide by 16."""
    blocks, image = (1, 1, 1, 2), torch.randn(2, 3, 97, 131, generator=torch.Generator().manual_seed(1))
    network = moved(tiny(form, blocks=blocks))
    P = network(image)
    g, logits = transcription.deeplab_v3plus(network.state_dict(), image, blocks, convs)
    for found, wanted in ((P.features, g), (P.logits, logits)):
        close(found, wanted, bound(roundings(network), torch.float32, wanted.abs().max()))
        assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()
        assert far(wanted, 0 * wanted, 0.1)


@torch.no_grad()
def test_the_backbone_is_torchvisions_at_stride_16():
    torch.manual_seed(1)
    resnet = moved(ResNet(Bottleneck, [1, 1, 1, 2], replace_stride_with_dilation=[False, False, True]))
    network = tiny(blocks=(1, 1, 1, 2)).eval()
    network.load_state_dict({k: v for k, v in resnet.state_dict().items() if not k.startswith("fc.")}, strict=False)
    x = image = torch.randn(1, 3, 72, 88)
    for layer in (resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool, *(getattr(resnet, f"layer{k}") for k in (1, 2, 3, 4))):
        x = layer(x)
    close(network(image).pyramid[-1], x, bound(roundings(resnet), torch.float32, x.abs().max()))


@pytest.mark.parametrize("form", FORMS)
def test_a_constant_picture_gives_finite_numbers_and_every_weight_learns(form):
    network = tiny(form)
    P = network(torch.full((2, 3, 64, 64), 0.7))
    assert P.logits.isfinite().all() and P.features.isfinite().all()
    P.logits.square().mean().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.requires_grad)
    network.zero_grad()
    network(torch.randn(2, 3, 64, 64)).logits.square().mean().backward()
    idle = {name for name, p in network.named_parameters() if p.requires_grad and not p.grad.any()}
    assert not idle


@pytest.mark.parametrize("depth", [50, 101])
def test_one_step_at_full_depth(depth):
    torch.manual_seed(0)
    network = deeplab_v3plus(19, "reco", depth)
    groups = parameter_groups(network, lr=2.5e-3, head_factor=1.0)
    before = network.layer3[-1].conv2.weight.detach().clone()
    optimiser = torch.optim.SGD(groups, momentum=0.9, nesterov=True)
    label = torch.randint(19, (2, 64, 64), generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(2):
        loss = cross_entropy(network(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))).logits, label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[1] < losses[0] < 10 and not torch.equal(before, network.layer3[-1].conv2.weight)


def test_dropout_is_of_training_alone():
    image = torch.randn(2, 3, 64, 64)
    network = tiny("semiseg")
    assert far(network(image).logits.detach(), network(image).logits.detach(), 1e-4)
    assert torch.equal(network.eval()(image).logits, network(image).logits)
    network = tiny("paper")
    assert torch.equal(network(image).logits, network(image).logits)  # without it


# ---- normalisation


@pytest.mark.parametrize(
    ("policy", "affine_learns", "statistics_move"),
    [("train", True, True), ("affine-frozen", False, True), ("frozen", False, False), ("sync", True, True)],
)
def test_batch_norm_policies_are_of_the_backbone_and_the_new_layers_learn(policy, affine_learns, statistics_move):
    network = tiny(bn=policy).eval().train()
    before = {name: value.clone() for name, value in network.state_dict().items() if name.endswith("running_mean")}
    network(torch.randn(2, 3, 64, 64))
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            new = name.startswith(network.heads)
            assert module.weight.requires_grad is (affine_learns or new), name
            assert torch.equal(before[f"{name}.running_mean"], module.running_mean) is not (statistics_move or new), name
            assert isinstance(module, nn.SyncBatchNorm) is (policy == "sync")


def test_a_single_picture_trains_with_the_running_statistics_of_image_pooling():
    """Where torch's batch normalisation of one value refuses."""
    network, image = tiny(), torch.randn(1, 3, 64, 64)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        nn.BatchNorm2d(256)(torch.zeros(1, 256, 1, 1))
    norm = moved(network.context.pooling).train().bn
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    x = torch.randn(1, 2048, 4, 4)
    wanted = network.context.pooling.eval()(x)
    assert torch.equal(network.context.pooling.train()(x), wanted)
    assert all(torch.equal(value, norm.state_dict()[name]) for name, value in before.items())
    P = network.train()(image)
    P.logits.square().mean().backward()
    assert P.logits.isfinite().all() and all(p.grad.isfinite().all() for p in network.parameters())
    assert norm.weight.grad.any() and network.context.pooling.conv.weight.grad.any()
    assert not torch.equal(network.low.bn.running_mean, torch.zeros(48))  # the other layers' statistics follow


def test_two_pictures_are_normalised_with_their_own_statistics():
    pooling, x = ImagePooling(8, 4).train(), torch.randn(2, 8, 3, 5)
    y = pooling.conv(x.mean((2, 3), keepdim=True)).detach()
    wanted = ((y - y.mean(0)) / (y.var(0, correction=0) + pooling.bn.eps).sqrt()).relu()
    close(pooling(x).detach(), wanted, bound(40, torch.float32, 1 / (y.var(0, correction=0) + 1e-5).sqrt().min().item()))
    assert pooling.bn.num_batches_tracked == 1


class _Pictures:
    def __init__(self, *sizes: int) -> None:
        numbers = torch.Generator().manual_seed(0)
        self.batches = [torch.randn(n, 3, 64, 64, generator=numbers) for n in sizes]

    def __iter__(self):
        return iter(type("Batch", (), {"image": image}) for image in self.batches)


def test_statistics_are_measured_from_batches_and_a_last_single_picture_is_let_through():
    network = tiny()
    assert reestimate_statistics(network, _Pictures(2, 1), progress=False) == 3
    assert network.context.pooling.bn.num_batches_tracked == 1 and network.low.bn.num_batches_tracked == 2
    kept = network.context.pooling.bn.running_mean.clone()
    with pytest.raises(ValueError, match="single picture for measuring statistics.* Give batches of at least 2 pictures"):
        reestimate_statistics(network, _Pictures(1, 2), progress=False)
    assert torch.equal(network.context.pooling.bn.running_mean, kept)


def _pooled_alone() -> dict[str, torch.Tensor]:
    from course_lib import ranks

    torch.manual_seed(0)
    pooling = synchronised(ImagePooling(8, 4)).train()
    x = torch.randn(2, 8, 3, 5)
    own = x if ranks.count() == 1 else x[ranks.rank() : ranks.rank() + 1]
    return {"y": pooling(own).detach(), "mean": pooling.bn.running_mean}


def test_two_processes_with_one_picture_each_normalise_as_one_with_two(tmp_path):
    alone, (first, second) = _pooled_alone(), together(_pooled_alone, tmp_path)
    steepest = 1e-5**-0.5  # of the normalisation: 1 / sqrt(eps)
    close(torch.cat([first["y"], second["y"]]), alone["y"], bound(60, torch.float32, steepest))
    assert torch.equal(first["mean"], second["mean"]) and far(alone["mean"], 0 * alone["mean"], 1e-4)
    close(first["mean"], alone["mean"], bound(60, torch.float32))


# ---- starts


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(1)
    return moved(ResNet(Bottleneck, list(TINY)))


def test_the_start_is_torchvisions_file_or_one_trained_on_coco(resnet, tmp_path):
    torch.save(resnet.state_dict(), tmp_path / "imagenet.pth")
    backbone = {f"backbone.{k}": v + 1 for k, v in resnet.state_dict().items() if not k.startswith("fc.")}
    heads = {"classifier.4.weight": torch.zeros(21, 256, 1, 1), "aux_classifier.4.bias": torch.zeros(21)}
    torch.save(backbone | heads, tmp_path / "coco.pth")
    torch.manual_seed(0)
    fresh = tiny().state_dict()
    for name, more in (("imagenet.pth", 0), ("coco.pth", 1)):
        found = tiny(imagenet=tmp_path / name).state_dict()
        for key, value in found.items():
            is_new = key.startswith(("context.", "low.", "decoder.", "classifier."))
            assert torch.equal(value, fresh[key] if is_new else resnet.state_dict()[key] + more), key
    v2 = deeplab_v2(3, "proca", blocks=TINY, imagenet=tmp_path / "coco.pth")  # likewise
    assert torch.equal(v2.conv1.weight, resnet.conv1.weight + 1)


def test_torchvisions_file_of_deeplabv3_on_coco_has_these_names():
    with torch.device("meta"):
        theirs = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=21, aux_loss=True).state_dict()
        ours = deeplab_v3plus(21, depth=50)
    kept = {name.removeprefix("backbone.") for name in theirs if name.startswith("backbone.")}
    assert kept == {name for name in ours.state_dict() if not name.startswith(ours.heads)}
    assert all(name.startswith(("backbone.", "classifier.", "aux_classifier.")) for name in theirs)


def test_adaptsegnets_coco_start_wants_its_images(resnet, tmp_path):
    torch.save({f"Scale.{k}": v for k, v in resnet.state_dict().items() if not k.startswith("fc.")}, tmp_path / "coco.pth")
    network = tiny("semiseg", imagenet=tmp_path / "coco.pth", normalisation="caffe_bgr")
    assert torch.equal(network.conv1.weight, resnet.conv1.weight) and network.normalisation == "caffe_bgr"
    with pytest.raises(ValueError, match="trained on 'caffe_bgr' images.* Give it normalisation='caffe_bgr'"):
        tiny("semiseg", imagenet=tmp_path / "coco.pth")


def test_imagenet_true_asks_torchvision_for_the_depth(monkeypatch):
    asked = []

    def weights(name):
        asked.append(name)
        full = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}[name]
        with torch.device("meta"):
            shapes = ResNet(Bottleneck, list(full)).state_dict()
        state = {k: torch.zeros(()).expand(v.shape) for k, v in shapes.items()}
        kind = type("Weights", (), {"get_state_dict": lambda self, **options: state})
        return type("Enum", (), {"IMAGENET1K_V1": kind()})

    monkeypatch.setattr("torchvision.models.get_model_weights", weights)
    assert not deeplab_v3plus(2, depth=50, imagenet=True).layer1[0].conv1.weight.any()
    assert not deeplab_v2(2, "proca", imagenet=True).layer1[0].conv1.weight.any()
    assert asked == ["resnet50", "resnet101"]
    with pytest.raises(ValueError, match=r"no ImageNet weights .* of \(1, 1, 1, 1\) blocks; it has those of depth 50"):
        tiny(imagenet=True)


def test_errors_of_the_builder(tmp_path):
    with pytest.raises(ValueError, match="no form 'chen'; it wants one of 'paper', 'reco', 'semiseg'"):
        deeplab_v3plus(19, "chen")
    with pytest.raises(ValueError, match="has no depth 18; it wants one of 50, 101"):
        deeplab_v3plus(19, depth=18)
    with pytest.raises(ValueError, match="no switch 'norm'; the switches are align_corners, bn, ceil_mode, decoder_convs"):
        build("deeplab_v3plus", 19, norm="train")
    with pytest.raises(ValueError, match="DeepLabV3[+]'s switch decoder_convs is 3; it wants one of 1, 2"):
        tiny(decoder_convs=3)
    with pytest.raises(ValueError, match="switch domain_stem is True; it wants one of False"):
        tiny(domain_stem=True)
    with pytest.raises(FileNotFoundError, match="Give torchvision's resnet50 file"):
        deeplab_v3plus(3, depth=50, imagenet=tmp_path / "none.pth")
    with pytest.raises(ValueError, match="num_classes=0; it wants at least 1"):
        tiny(num_classes=0)
    with pytest.raises(ValueError, match="image of 24x64; it wants at least 32x32"):
        tiny()(torch.zeros(1, 3, 24, 64))


# ---- what it costs, on the meta device


def test_memory_of_a_step_at_the_published_size():
    """ReCo's batch of 2 + 2 crops of 512: the deeper network and the larger picture take more, and less than a GPU of 40 GB."""

    def step(depth: int, side: int) -> int:
        with torch.device("meta"):
            network = deeplab_v3plus(19, "reco", depth)
            image = torch.empty(4, 3, side, side)
        return peak_bytes(lambda: network(image).logits.sum().backward()) / 2**30

    small, large, deep = step(50, 256), step(50, 512), step(101, 512)
    assert 3.5 < large / small < 4.5 and large < deep < 40
    maps = 4 * 128 * 128 * (3 * 256 + 304 + 256) * 4 / 2**30  # F_1, low, up, g, d of the decoder alone
    assert deep > maps


def test_one_call_is_one_pass():
    assert on_meta().cost.training == on_meta().cost.whole == 1 and on_meta().passes_of((512, 1024)) == 1


def test_the_seed_fixes_the_weights():
    one, two, other = (build("deeplab_v3plus", 3, seed=seed, blocks=TINY).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["context.project.conv.weight"], other["context.project.conv.weight"])
