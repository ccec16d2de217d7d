"""MiT: sizes as published, names as released, numbers as a plain transcription's; and what it says of what does not fit."""

import math

import pytest
import torch
from torch.nn import functional as F

from course_lib.networks import build, mit, parameter_groups
from course_lib.networks.mit import SIZES
from tests.bounds import bound, close, far
from tests.networks import released_names, transcription

PUBLISHED = {"b0": 3_319_392, "b1": 13_151_424, "b2": 24_196_288, "b3": 44_072_128, "b4": 60_842_688, "b5": 81_443_008}
AGREE = 1e-4  # of the largest logit: some 10^3 roundings lie between, in another order


def filled(network, seed: int = 0):
    """All weights and statistics away from their first values, so that none of them can be left out unseen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                low, high = (0.5, 1.5) if name.endswith("running_var") else (-1, 1)
                noise = torch.rand(value.shape, generator=generator) * (high - low) + low
                value.copy_(noise if value.ndim < 2 else noise / math.sqrt(value[0].numel()))
    return network.eval()


@pytest.mark.parametrize("size", SIZES)
def test_the_encoder_has_as_many_weights_as_published(size):
    with torch.device("meta"):
        assert sum(p.numel() for p in mit(19, size).backbone.parameters()) == PUBLISHED[size]


@pytest.mark.parametrize("size, count", [("b0", 234), ("b5", 1110)])
def test_names_and_shapes_are_the_released_ones(size, count):
    with torch.device("meta"):
        own = {name: tuple(value.shape) for name, value in mit(19, size).state_dict().items()}
    assert own == released_names.daformer(getattr(released_names, size.upper())) and len(own) == count


@pytest.mark.parametrize("size", ["b0", "b1"])
def test_it_computes_what_a_plain_transcription_computes(size):
    network = filled(mit(19, size))
    image = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    state = network.state_dict()
    wanted = transcription.daformer_head(state, "decode_head", transcription.encoder(state, image, SIZES[size].blocks))
    with torch.no_grad():
        found = network(image)
        assert all(torch.equal(*maps) for maps in zip(found.pyramid, network.pyramid(image), strict=True))
    assert found.logits.shape == (2, 19, 16, 24) and found.features.shape == (2, 256, 16, 24) and not found.align_corners
    assert [tuple(x.shape[2:]) for x in found.pyramid] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert (found.logits - wanted).abs().max() < AGREE * wanted.abs().max()


def test_the_head_of_segformer_reads_all_four_maps():
    network = filled(mit(5, "b0", head="segformer"))
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = network(image)
        assert found.features.shape == (1, 256, 16, 16) and found.logits.shape == (1, 5, 16, 16)
        for k in range(1, 5):
            layer = getattr(network.decode_head, f"linear_c{k}").proj
            kept = layer.weight.clone()
            layer.weight.zero_()
            assert far(network(image).logits, found.logits, 1e-4), k
            layer.weight.copy_(kept)


@pytest.mark.parametrize("size", [(32, 32), (61, 97), (33, 64)])
def test_odd_sizes_pass(size):
    found = mit(4, "b0").eval()(torch.randn(1, 3, *size))
    assert found.logits.shape[2:] == (-(-size[0] // 4), -(-size[1] // 4))


def test_stochastic_depth_rises_to_a_tenth_and_is_off_in_eval_mode():
    network = mit(4, "b0")
    rates = [block.drop.p for k in range(1, 5) for block in getattr(network.backbone, f"block{k}")]
    assert rates[0] == 0 and rates == sorted(rates)
    close(rates[-1], 0.1, bound(len(rates), torch.float32, 0.1))
    image = torch.randn(4, 3, 32, 32)
    assert torch.equal(network.eval()(image).logits, network(image).logits)
    for block in network.backbone.block4:
        block.drop.p = 1.0
    torch.nn.init.normal_(network.decode_head.conv_seg.weight)
    assert far(network.train().backbone(image)[-1], network.eval().backbone(image)[-1], 1e-3)


def test_its_two_rates_are_the_encoders_and_the_heads():
    network = build("mit", 4, seed=0, size="b0")
    groups = {group["name"]: group for group in parameter_groups(network, 6e-5, norm_decay=False)}
    rates = {"backbone": 6e-5, "backbone, normalisation": 6e-5, "head": 10 * 6e-5, "head, normalisation": 10 * 6e-5}
    assert {name: group["lr"] for name, group in groups.items()} == rates
    counted = sum(p.numel() for name in groups if name.startswith("backbone") for p in groups[name]["params"])
    assert counted == PUBLISHED["b0"]


def test_a_released_encoder_file_is_its_start(tmp_path):
    """As `mit_b5.pth`: names without `backbone.`, and a classifier of ImageNet that nobody reads."""
    first = filled(mit(4, "b0"), seed=3)
    released = dict(first.backbone.state_dict()) | {"head.weight": torch.zeros(1000, 256), "head.bias": torch.zeros(1000)}
    torch.save(released, tmp_path / "mit_b0.pth")
    started = build("mit", 7, size="b0", imagenet=str(tmp_path / "mit_b0.pth"))
    for name, value in first.backbone.state_dict().items():
        assert torch.equal(started.backbone.state_dict()[name], value), name
    with pytest.raises(ValueError, match=r"mit_b0.pth does not hold this MiT encoder: .* of another shape: .*Choose its size"):
        build("mit", 7, size="b1", imagenet=str(tmp_path / "mit_b0.pth"))
    del released["norm4.weight"]
    torch.save(released, tmp_path / "part.pth")
    with pytest.raises(ValueError, match="1 missing: norm4.weight"):
        build("mit", 7, size="b0", imagenet=str(tmp_path / "part.pth"))


def test_errors_say_what_came_and_what_was_wanted():
    with pytest.raises(ValueError, match="MiT has no size 'b6'; it wants one of 'b0', 'b1'"):
        mit(4, "b6")
    with pytest.raises(ValueError, match="MiT has no head 'fcn'; it wants 'daformer' or 'segformer'"):
        mit(4, "b0", "fcn")
    with pytest.raises(ValueError, match="bn='frozen'; it wants 'train' or 'sync'"):
        mit(4, "b0", bn="frozen")
    with pytest.raises(ValueError, match="MiT got an image of 24x64; it wants at least 32x32: below, its coarsest grid"):
        mit(4, "b0")(torch.zeros(1, 3, 24, 64))


def test_full_depth_learns_one_step():
    """B5 with the head of DAFormer, one step on a small picture: every weight moves."""
    network = mit(3, "b5").train()
    for block in (block for k in range(1, 5) for block in getattr(network.backbone, f"block{k}")):
        block.drop.p = 0.0
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    P = network(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    F.cross_entropy(P.logits, torch.randint(0, 3, P.logits.shape[:1] + P.logits.shape[2:])).backward()
    optimiser.step()
    assert [name for name, p in network.named_parameters() if torch.equal(before[name], p)] == []
