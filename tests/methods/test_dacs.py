"""DACS against an oracle with loops; what its random numbers depend on; state, processes, accumulation, published network."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from course_lib.data import NORMALISATIONS, Batch, colours
from course_lib.data.sampling import mixed_seed
from course_lib.engine import LoopSettings, train
from course_lib.methods import DACS, DACSSettings, OptimiserSettings
from course_lib.methods.step import Passes
from course_lib.mixing import MixingSettings, class_mask
from course_lib.networks import deeplab_v2, small
from course_lib.pseudo_labels.weights import LabelWeightSettings
from course_lib.teacher import TeacherSettings
from tests.bounds import bound, close
from tests.processes import assert_like_one, together, trained

C, H, W = 5, 16, 32
PLAIN = DACSSettings(mixed_photometric="none", mixed_blur=0.0)
LOSS = bound(200, torch.float32, 20.0) + bound(2 * H * W, torch.float32, 20.0)  # logits below 20, as in test_self_training


def batch(seed: int, n: int = 2, labelled: bool = True) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(n, 3, H, W, generator=generator)
    label = torch.randint(0, C, (n, H, W), generator=generator)
    label[:, :2] = 255
    return Batch(image, label if labelled else torch.full_like(label, 255), [f"{seed}_{i}.png" for i in range(n)])


def method(settings: DACSSettings = PLAIN, seed: int = 0, **network) -> DACS:
    torch.manual_seed(0)
    optimiser = OptimiserSettings(lr=0.01, head_factor=1.0, momentum=0.0, weight_decay=0.0)
    return DACS(small(C, width=8, **network), settings, optimiser, seed=seed).train()


def losses_of(m: DACS, source: Batch, target: Batch) -> dict[str, float]:
    found = {}
    for losses in m.losses(source=source, target=target):
        found |= {name: loss.item() for name, loss in losses.items()}
    return found


def test_a_step_is_the_papers_with_loops():
    """Labels, share of sure pixels, mask, mixed picture and both losses, pixel by pixel from the equations."""
    settings = replace(PLAIN, labels=LabelWeightSettings(threshold=0.3))
    m, source, target = method(settings), batch(1), batch(2, labelled=False)
    m.begin_step(3, 10)
    step = torch.Generator().manual_seed(mixed_seed(m.seed, 6, 3, 0))
    M = class_mask(source.label, C, generator=step).numpy()
    with torch.no_grad():
        p = up(m.teacher(target.image).logits).softmax(1).double().numpy()
        P_s = up(m.segmenter(source.image).logits).log_softmax(1).double().numpy()
    sure = sum(p[n, :, i, j].max() >= 0.3 for n, i, j in np.ndindex(2, H, W))
    q, x_m, y_m, q_m = sure / (2 * H * W), target.image.clone(), np.zeros((2, H, W), int), np.zeros((2, H, W))
    assert 0.05 < q < 0.95, "a share that is 0 or 1 would show little"
    for n, i, j in np.ndindex(2, H, W):
        y_m[n, i, j] = source.label[n, i, j] if M[n, i, j] else p[n, :, i, j].argmax()
        q_m[n, i, j] = 1 if M[n, i, j] else q
        if M[n, i, j]:
            x_m[n, :, i, j] = source.image[n, :, i, j]
    with torch.no_grad():
        P_m = up(m.segmenter(x_m).logits).log_softmax(1).double().numpy()
    labelled = [(n, i, j) for n, i, j in np.ndindex(2, H, W) if source.label[n, i, j] != 255]
    L_S = -sum(P_s[n, source.label[n, i, j], i, j] for n, i, j in labelled) / len(labelled)
    L_mix = -sum(q_m[n, i, j] * P_m[n, y_m[n, i, j], i, j] for n, i, j in np.ndindex(2, H, W)) / (2 * H * W)
    found = losses_of(m, source, target)
    close(found, {"segmentation": L_S, "mixed": L_mix}, LOSS)
    assert m.weight("mixed") == 1.0 and m.passes() == Passes(2, 1) and m.landmarks["mixed"][0] == math.log(C)


def up(logits: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.interpolate(logits, size=(H, W), mode="bilinear", align_corners=True)


def test_pixels_without_a_label_count_in_the_mean_of_the_mixed_loss_and_add_nothing():
    m, target = method(replace(PLAIN, mixing=MixingSettings(mix="box", mix_box=1.0))), batch(2, labelled=False)
    whole, half = batch(1), batch(1)
    whole.label[:] = half.label[:] = 1
    half.label[:, H // 2 :] = 255
    losses = [losses_of(m, source, target)["mixed"] for source in (whole, half)]
    assert losses[1] < 0.8 * losses[0], "a mean over labelled pixels alone would stay"


def test_the_teacher_follows_once_a_step_and_never_learns():
    m, settings = method(), LoopSettings(steps=3, accumulate=2, log_every=1)
    seen = []
    follow = m.teacher.follow
    m.teacher.follow = lambda network, *at: seen.append(at[0]) or follow(network, *at)
    first = copy.deepcopy(m.segmenter.state_dict())
    train(m, {"source": forever(1), "target": forever(2)}, settings, quiet=True)
    assert seen == [0, 1, 2]
    assert not any(p.requires_grad for p in m.teacher.parameters())
    optimised = {id(p) for o in m.optimisers.values() for g in o.param_groups for p in g["params"]}
    assert not optimised & {id(p) for p in m.teacher.parameters()}
    moved = [not torch.equal(a, b) for a, b in zip(m.teacher.module.state_dict().values(), first.values())]
    assert any(moved)


def forever(seed: int):
    while True:
        yield batch(seed, labelled=seed == 1)


def test_numbers_depend_on_seed_step_and_batch_alone():
    settings = DACSSettings(mixed_photometric="strong")
    source, target = batch(1), batch(2, labelled=False)

    def mixed(seed: int, step: int, number: int) -> float:
        m = method(settings, seed)
        m.begin_step(step, 9)
        for _ in range(number + 1):
            found = losses_of(m, source, target)["mixed"]
        return found

    state = torch.get_rng_state()
    again = [mixed(0, 2, 1), mixed(0, 2, 1)]
    others = [mixed(1, 2, 1), mixed(0, 3, 1), mixed(0, 2, 0)]
    torch.manual_seed(7)  # what torch's own generator holds changes nothing
    assert again[0] == again[1] == mixed(0, 2, 1) and len({again[0], *others}) == 4
    torch.set_rng_state(state)
    m = method(settings)
    state = torch.get_rng_state()
    losses_of(m, source, target)
    assert torch.equal(state, torch.get_rng_state())


def test_mixed_pictures_are_recoloured_as_drawn_and_the_teacher_sees_plain_ones():
    m, target = method(DACSSettings(mixed_photometric="strong", mixed_blur=1.0)), batch(2, labelled=False)
    seen = []
    m.teacher.module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    image = torch.rand(3, 3, H, W) * 2 - 1
    numbers = torch.Generator().manual_seed(4)
    drawn = colours.draw_mixed("strong", 1.0, 3, torch.Generator().manual_seed(4))
    plain, got = NORMALISATIONS[m.segmenter.normalisation], m.recoloured(image, numbers)
    for picture, changes, found in zip(image, drawn, got, strict=True):
        assert torch.equal(plain.normalise(colours.apply(plain.denormalise(picture), changes)), found)
    losses_of(m, batch(1), target)
    assert torch.equal(seen[0], target.image)
    assert method().recoloured(image, numbers) is image, "nothing to change"


def test_plain_pictures_are_mixed_and_labelled_and_coloured_ones_are_the_sources():
    m, source, target = method(), batch(1), batch(2, labelled=False)
    plain = [batch(k).image for k in (3, 4)]
    given = source._replace(plain=plain[0]), target._replace(plain=plain[1])
    m.begin_step(0, 9)
    found = losses_of(m, *given)
    m.begin_step(0, 9)
    assert found["mixed"] == losses_of(m, source._replace(image=plain[0]), target._replace(image=plain[1]))["mixed"]
    assert found["segmentation"] == losses_of(m, source, target)["segmentation"]
    streams = m.streams(m.settings)
    assert streams["source"].plain and streams["target"].plain and streams["target"].labels == "none"


def test_recolouring_keeps_the_order_of_memory():
    m, image = method(DACSSettings()), torch.rand(2, 3, H, W)
    last = image.contiguous(memory_format=torch.channels_last)
    for picture, layout in ((image, torch.contiguous_format), (last, torch.channels_last)):
        assert m.recoloured(picture, torch.Generator().manual_seed(0)).is_contiguous(memory_format=layout)


SETTINGS = {
    "published": DACSSettings(),
    "class-wise, rare first": DACSSettings(
        mixed_photometric="strong", labels=LabelWeightSettings("class"), mixing=MixingSettings(mix_rare=0.1, unmixed=0.5)
    ),
    "the batch's classes, running statistics": DACSSettings(
        mixing=MixingSettings(mix_scope="batch"),
        teacher=TeacherSettings(teacher_normalisation="running", teacher_buffers="average"),
    ),
}


def training(settings: DACSSettings) -> dict:
    return trained(method(settings), batch(1, n=4), batch(2, n=4, labelled=False))


def work() -> dict:
    return {name: training(settings) for name, settings in SETTINGS.items()}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return together(work, tmp_path_factory.mktemp("dacs"))


@pytest.mark.parametrize("name", SETTINGS)
def test_two_processes_train_like_one(two, name):
    """Group normalisation, so that nothing but the method joins the pictures of a batch."""
    # weights of three steps at rate 0.01 pass their rounding on
    assert_like_one([result[name] for result in two], training(SETTINGS[name]), LOSS * 3)


def test_thresholds_counts_and_teacher_are_in_the_state():
    m = method(SETTINGS["class-wise, rare first"])
    train(m, {"source": forever(1), "target": forever(2)}, LoopSettings(steps=2), quiet=True)
    state = m.state_dict()
    assert state["labeller.quantiles.moving"].any() and state["mixer.pixels"].sum() == 2 * (batch(1).label != 255).sum()
    assert {"teacher.module." + name for name in m.segmenter.state_dict()} <= state.keys()
    other = method(SETTINGS["class-wise, rare first"])
    other.load_state_dict(state)
    m.begin_step(2, 9), other.begin_step(2, 9)
    assert losses_of(m, batch(1), batch(2)) == losses_of(other, batch(1), batch(2))


def test_three_steps_with_the_published_network_at_full_depth():
    torch.manual_seed(0)
    network = deeplab_v2(19, "adaptsegnet_single")
    m, first = DACS(network, optimiser=OptimiserSettings()).train(), copy.deepcopy(network.state_dict())
    generator = torch.Generator().manual_seed(0)

    def pictures():
        while True:
            image = torch.randn(2, 3, 65, 65, generator=generator)
            yield Batch(image, torch.randint(0, 19, (2, 65, 65), generator=generator), ["a", "b"])

    log = train(m, {"source": pictures(), "target": pictures()}, LoopSettings(steps=3, log_every=1), quiet=True)
    assert all(math.isfinite(value) for record in log.records for value in record["losses"].values())
    assert list(log.records[0]["losses"]) == ["segmentation", "mixed"]
    assert not torch.equal(first["layer5.conv2d_list.0.weight"], m.segmenter.state_dict()["layer5.conv2d_list.0.weight"])


@pytest.mark.parametrize("field, value, words", [
    ("lambda_mix", -1.0, "lambda_mix is -1.0"),
    ("mixed_blur", 1.5, "mixed_blur is 1.5; it wants a number from 0.0 to 1.0"),
    ("mixed_photometric", "loud", "mixed_photometric: it holds 'loud', wanted one of"),
])  # fmt: skip
def test_settings_out_of_range_are_refused(field, value, words):
    with pytest.raises(ValueError, match=words):
        replace(DACSSettings(), **{field: value})


def test_source_and_target_of_two_sizes_are_refused():
    source = batch(1)
    target = Batch(torch.randn(2, 3, H, 2 * W), torch.full((2, H, 2 * W), 255), ["a", "b"])
    with pytest.raises(ValueError, match="Crop source and target to one size"):
        losses_of(method(), source, target)
