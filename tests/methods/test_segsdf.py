"""SegSDF and its stage of depth: a step by loops, what each part adds how it is switched off; processes, runs, bad files."""

import math
import os
from dataclasses import replace
from itertools import repeat

import numpy as np
import pytest
import torch

from course_lib.data import Batch, ministreet
from course_lib.engine import LoopSettings, train
from course_lib.experiments.parts import Pair
from course_lib.experiments.plan import plan, run_plan
from course_lib.experiments.train import load_network, train_recipe
from course_lib.losses import berhu, cross_entropy
from course_lib.methods import ClassMix, Depth, DepthSettings, OptimiserSettings, SegSDF, SegSDFSettings
from course_lib.methods.classmix import ClassMixSettings
from course_lib.methods.step import Passes, Stream
from course_lib.methods.terms import find_term
from course_lib.mixing import MixingSettings, depth_mask
from course_lib.networks import multitask, small
from course_lib.pseudo_labels.weights import LabelWeightSettings
from course_lib.recipes import recipe
from tests.bounds import bound, close, far
from tests.data.trees import write_image
from tests.oracles import losses as losses_oracle
from tests.oracles import mixing as mixing_oracle
from tests.processes import assert_like_one, together, trained, whole_and_parts

C, H, W = 5, 16, 32
NET = dict(of="small", width=8, decoder_width=16, decoder_norm="group", rates=(1, 2))
HALF_SURE = LabelWeightSettings("threshold", threshold=0.8)  # of these networks, so that about half of the pixels are sure
PLAIN = SegSDFSettings(mixed_photometric="none", mixed_blur=0.0, labels=HALF_SURE)
LOSS = bound(200, torch.float32, 20.0) + bound(2 * H * W, torch.float32, 20.0)  # logits below 20, as in test_dacs


def batch(seed: int, n: int = 3, labelled: bool = True) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(n, 3, H, W, generator=generator)
    label = torch.randint(0, C, (n, H, W), generator=generator)
    label[:, :2] = 255
    D = torch.rand(n, H, W, generator=generator)
    D[:, 3] = -1
    label = label if labelled else torch.full_like(label, 255)
    return Batch(image, label, [f"{seed}_{i}.png" for i in range(n)], disparity=D)


def method(settings: SegSDFSettings = PLAIN, kind=SegSDF, tasks: str = "both", terms: tuple[str, ...] = ()):
    torch.manual_seed(0)
    optimiser = OptimiserSettings(lr=0.01, head_factor=1.0, momentum=0.0, weight_decay=0.0)
    network = multitask(C, **NET, tasks=tasks)
    with torch.no_grad():  # predictions that are sure of some pixels
        for name, p in network.named_parameters():
            if "finals.segmentation.1" in name or "outputs.segmentation" in name:
                p.mul_(6)
    return kind(network, settings, optimiser, terms={name: find_term(name)(network) for name in terms}).train()


def dictionaries(m, source: Batch, target: Batch | None = None, step: int = 3) -> list[dict[str, torch.Tensor]]:
    m.begin_step(step, 10)
    m.terms.begin_step(step, 10)
    return list(m.losses(source=source, target=target))


def losses_of(m, source: Batch, target: Batch | None = None) -> dict[str, float]:
    return {name: loss.item() for losses in dictionaries(m, source, target) for name, loss in losses.items()}


def up(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.interpolate(x, size=(H, W), mode="bilinear", align_corners=False)


# ---- one step


def test_a_step_is_the_papers_with_loops():
    """Masks, labels, weights and losses pixel by pixel from the equations; two outputs of each task, their means."""
    m, source, target = method(), batch(1), batch(2)
    m.begin_step(3, 10)
    with torch.no_grad():
        p = up(m.teacher(target.image).logits).softmax(1).double().numpy()
        P_s, P_t = m.segmenter(source.image), m.segmenter(target.image)
    y, sure = p.argmax(1), p.max(1) >= 0.8
    assert 0.05 < sure.mean() < 0.95
    D = target.disparity.double().numpy()
    M = mixing_oracle.depth_mask(D[[1, 2, 0]], D, 0.03)
    assert 0.2 < M.mean() < 0.8
    x_m, y_m, sure_m = target.image.clone(), y.copy(), sure.copy()
    for n, i, j in np.ndindex(3, H, W):
        if M[n, i, j]:
            other = (n + 1) % 3
            x_m[n, :, i, j], y_m[n, i, j], sure_m[n, i, j] = target.image[other, :, i, j], y[other, i, j], sure[other, i, j]
    with torch.no_grad():
        P_m = m.segmenter(x_m)
    q = sure_m.sum() / sure_m.size
    L_mix = q * sum(losses_oracle.cross_entropy(up(z).tolist(), y_m.tolist()) for z in (P_m.logits, P_m.aux_logits)) / 2
    L_S = sum(losses_oracle.cross_entropy(up(z).tolist(), source.label.tolist()) for z in (P_s.logits, P_s.aux_logits)) / 2

    def L_D(P, truth):
        outputs = (up(D[:, None])[:, 0].tolist() for D in (P.disparity, P.aux_disparity))
        return sum(losses_oracle.berhu(D, truth.tolist(), bottom=0.1) for D in outputs) / 2

    found = losses_of(m, source, target)
    wanted = {"segmentation": L_S, "mixed": L_mix, "depth": L_D(P_s, source.disparity),
              "depth_unlabelled": L_D(P_t, target.disparity)}  # fmt: skip
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        close(found[name], value, LOSS, what=name)
    assert [m.weight(name) for name in wanted] == [1, 1, 0.5, 0.5]


def test_probabilities_are_mixed_then_the_largest_taken_as_labels_are_mixed():
    """The paper mixes soft labels; a mask of 0 and 1 makes the two orders one."""
    p = torch.rand(4, C, H, W, generator=torch.Generator().manual_seed(0)).softmax(1)
    M = depth_mask(batch(1, 4).disparity, batch(2, 4).disparity)
    soft = torch.where(M[:, None], p.roll(-1, 0), p)
    hard = torch.where(M, p.argmax(1).roll(-1, 0), p.argmax(1))
    assert torch.equal(soft.argmax(1), hard)


def test_the_weight_counts_sure_pixels_after_mixing_and_is_one_for_all():
    m, target = method(), batch(2)
    y, q = torch.zeros(3, H, W, dtype=torch.int64), torch.zeros(3, H, W)
    q[1] = 1  # picture 1 is sure of everything, 0 and 2 of nothing
    M = depth_mask(target.disparity.roll(-1, 0), target.disparity)
    found = m.mix(batch(1), target, y, q, torch.Generator())
    wanted = (M[0].sum() + (~M[1]).sum()) / (3 * H * W)  # pasted on 0, and what is left of it
    close(found.weight, wanted.expand(3, H, W), bound(3, torch.float32))
    assert far(wanted, q.mean(), 1e-3), "before mixing the share is another"
    own = method(replace(PLAIN, share_after=False)).mix(batch(1), target, y, q, torch.Generator()).weight
    assert torch.equal(own, torch.where(M, q.roll(-1, 0), q))


def test_a_ramp_lowers_the_weight_of_mixed_pictures_until_its_last_step():
    """exp(-5 (1 - t/T)^2) of q_m, whether that is one for all or each pixel's own; without a ramp all steps are alike."""
    y, q = torch.zeros(3, H, W, dtype=torch.int64), torch.rand(3, H, W, generator=torch.Generator().manual_seed(0)).round()
    for share in (True, False):
        plain = method(replace(PLAIN, share_after=share))
        ramped = method(replace(PLAIN, share_after=share, ramp_steps=8))
        for t, factor in ((0, math.exp(-5)), (4, math.exp(-5 / 4)), (8, 1.0), (9, 1.0)):
            for m in (plain, ramped):
                m.begin_step(t, 10)
            whole, part = (m.mix(batch(1), batch(2), y, q, torch.Generator()).weight for m in (plain, ramped))
            assert whole.sum() > 0 and torch.equal(part, factor * whole), (share, t)


def test_pasted_ground_truth_counts_as_sure_and_gets_the_weight_of_all():
    s = replace(PLAIN, mix_from="labelled")
    m, source, target = method(s), batch(1), batch(2, labelled=False)
    y, q = torch.zeros(3, H, W, dtype=torch.int64), torch.zeros(3, H, W)
    M = depth_mask(source.disparity, target.disparity)
    found = m.mix(source, target, y, q, torch.Generator())
    assert torch.equal(found.label, torch.where(M, source.label, y)) and torch.equal(found.mask, M)
    known = M & (source.label != 255)
    assert 0 < known.sum() < M.sum()
    close(found.weight, (known.sum() / M.numel()).expand(3, H, W), bound(3, torch.float32))
    assert losses_of(m, source, target)["mixed"] > 0


def test_a_batch_of_two_has_the_two_pictures_of_the_release():
    """There i is pasted on i + 1, here i + 1 on i; of two pictures these are the same."""
    m, target = method(), batch(2, n=2)
    D, x = target.disparity, target.image
    found = m.mix(batch(1, n=2), target, torch.zeros(2, H, W, dtype=torch.int64), torch.ones(2, H, W), torch.Generator()).image
    theirs = [torch.where(depth_mask(D[i : i + 1], D[1 - i : 2 - i]), x[i], x[1 - i]) for i in (0, 1)]  # i upon the other
    assert torch.equal(found, torch.stack([theirs[1], theirs[0]]))


def test_colours_and_plain_pictures_as_in_classmix():
    target = batch(2)
    plain = batch(4).image
    kept = replace(PLAIN, lambda_depth=0.0)
    both = target._replace(plain=plain), target._replace(image=plain)
    found = [losses_of(method(kept), batch(1), b)["mixed"] for b in both]
    assert found[0] == found[1] != losses_of(method(kept), batch(1), target)["mixed"]


def test_labels_of_unlabelled_pictures_are_never_read():
    assert losses_of(method(), batch(1), batch(2)) == losses_of(method(), batch(1), batch(2, labelled=False))


def test_some_pictures_may_stay_unmixed():
    m = method(replace(PLAIN, mixing=MixingSettings(unmixed=1.0)))
    y, q = torch.zeros(3, H, W, dtype=torch.int64), torch.ones(3, H, W)
    found = m.mix(batch(1), batch(2), y, q, torch.Generator())
    assert torch.equal(found.image, batch(2).image) and not found.mask.any()


# ---- switches


def test_with_masks_of_classes_and_no_depth_it_is_classmix():
    common = dict(mixed_photometric="none", mixed_blur=0.0, labels=HALF_SURE)
    own = method(SegSDFSettings(**common, depth_mix=False, lambda_depth=0.0, share_after=False), tasks="segmentation")
    other = method(ClassMixSettings(**common), kind=ClassMix, tasks="segmentation")
    bare = [b._replace(disparity=None) for b in (batch(1), batch(2))]
    assert losses_of(own, *bare) == losses_of(other, *bare)


SWITCHES = {  # what remains, and which streams have depth
    "all": ({}, {"segmentation", "mixed", "depth", "depth_unlabelled"}, (True, True), Passes(3, 1)),
    "no unlabelled depth": ({"depth_of": "labelled"}, {"segmentation", "mixed", "depth"}, (True, True), Passes(2, 1)),
    "no depth": ({"lambda_depth": 0.0}, {"segmentation", "mixed"}, (False, True), Passes(2, 1)),
    "labelled pasted": ({"lambda_depth": 0.0, "mix_from": "labelled"}, {"segmentation", "mixed"}, (True, True), Passes(2, 1)),
    "classes": ({"lambda_depth": 0.0, "depth_mix": False}, {"segmentation", "mixed"}, (False, False), Passes(2, 1)),
    "no mixing": ({"lambda_mix": 0.0}, {"segmentation", "depth", "depth_unlabelled"}, (True, True), Passes(2, 0)),
    "labelled depth": ({"lambda_mix": 0.0, "depth_of": "labelled"}, {"segmentation", "depth"}, (True,), Passes(1, 0)),
    "supervised": ({"lambda_mix": 0.0, "lambda_depth": 0.0}, {"segmentation"}, (False,), Passes(1, 0)),
}


@pytest.mark.parametrize("name", SWITCHES)
def test_each_part_can_be_switched_off(name):
    changes, left, depth, passes = SWITCHES[name]
    settings = replace(PLAIN, **changes)
    m = method(settings)
    streams = SegSDF.streams(settings)
    assert tuple(stream.depth for stream in streams.values()) == depth and m.passes() == passes
    batches = [b if has else b._replace(disparity=None) for b, has in zip((batch(1), batch(2)), depth)]
    mixes = "mixed" in left
    assert all(stream.plain == mixes for stream in streams.values()) and hasattr(m, "teacher") == mixes
    assert len(m.networks()) == 1 + mixes and any("teacher" in key for key in m.state_dict()) == mixes
    m.begin_step(1, 2)
    calls = {True: 0, False: 0}
    m.segmenter.register_forward_pre_hook(lambda *_: calls.update({True: calls[True] + 1}))
    for teacher in m.networks()[1:]:
        teacher.register_forward_pre_hook(lambda *_: calls.update({False: calls[False] + 1}))
    found = losses_of(m, *batches)
    assert found.keys() == left and all(np.isfinite(v) and v != 0 for v in found.values())
    assert (calls[True], calls[False]) == (passes.trained, passes.frozen)


@pytest.mark.parametrize("name", ["segmentation", "mixed", "depth", "depth_unlabelled"])
def test_every_loss_moves_the_encoder(name):
    m = method()
    loss = {k: v for losses in dictionaries(m, batch(1), batch(2)) for k, v in losses.items()}[name]
    assert loss.isfinite() and loss != 0
    loss.backward()
    encoder = [p.grad for p in m.segmenter.backbone_parameters()]
    assert all(g is not None and g.isfinite().all() and g.any() for g in encoder)
    assert all(p.grad is None for p in m.teacher.parameters())


@pytest.mark.parametrize("key, name", [("lambda_mix", "mixed"), ("lambda_depth", "depth")])
def test_its_weight_decides_how_far_the_encoder_moves(key, name):
    def moved(weight: float) -> torch.Tensor:
        m = method(replace(PLAIN, **{key: weight}))
        before = [p.detach().clone() for p in m.segmenter.backbone_parameters()]
        train(m, {"source": repeat(batch(1)), "target": repeat(batch(2))}, LoopSettings(steps=1), quiet=True)
        return torch.cat([(p - b).flatten() for p, b in zip(m.segmenter.backbone_parameters(), before)]).detach()

    none, one, two = moved(0.0), moved(1.0), moved(2.0)
    assert far(one, none, 1e-5)
    close(two - none, 2 * (one - none), bound(400, torch.float32, 20 * one.abs().max()))


# ---- what is missing, hostile settings


def test_a_network_without_depth_is_refused():
    for kind, settings in ((SegSDF, PLAIN), (Depth, DepthSettings())):
        with pytest.raises(ValueError, match=f"{kind.name} learns depth, and the network Small predicts none. Choose network="):
            kind(small(C, width=8), settings)
    SegSDF(small(C, width=8), replace(PLAIN, lambda_depth=0.0))  # masks alone need none


def test_a_batch_without_disparity_is_refused():
    bare = batch(2)._replace(disparity=None)
    with pytest.raises(ValueError, match="DepthMix reads Batch.disparity, and a batch has none: .* depth_mix=no"):
        losses_of(method(), batch(1), bare)
    with pytest.raises(ValueError, match=r"A loss of depth reads Batch.disparity, and this batch has none. Streams that say S"):
        losses_of(method(replace(PLAIN, lambda_mix=0.0)), batch(1), bare)


@pytest.mark.parametrize("changes, words", [
    ({"ramp_steps": -1}, "ramp_steps is -1"),
    ({"depth_tie": -0.1}, "depth_tie is -0.1"), ({"depth_tie": float("nan")}, "depth_tie is nan"),
    ({"lambda_depth": -1.0}, "lambda_depth is -1.0"), ({"lambda_depth": float("inf")}, "lambda_depth is inf"),
    ({"depth_bottom": 1.5}, "depth_bottom is 1.5"), ({"depth_of": "none"}, "depth_of: it holds 'none', wanted one of 'all'"),
    ({"labels": LabelWeightSettings("batch")}, "share_after counts the pixels whose weight is 1, and weighting=batch gives o"),
    ({"labels": LabelWeightSettings("power")}, "choose weighting=threshold or class, or share_after=no"),
])  # fmt: skip
def test_hostile_settings_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        replace(PLAIN, **changes)


def test_hostile_settings_of_depth_are_refused():
    with pytest.raises(ValueError, match="bottom is 2.0"):
        DepthSettings(bottom=2.0)
    with pytest.raises(ValueError, match="depth_noise is -1.0"):
        recipe("ministreet", "segsdf").override("depth_noise=-1.0")


def test_one_picture_has_nothing_to_be_mixed_with():
    with pytest.raises(ValueError, match="segsdf mixes two unlabelled pictures, and a step has 1"):
        losses_of(method(), batch(1, n=1), batch(2, n=1))
    assert losses_of(method(replace(PLAIN, lambda_mix=0.0)), batch(1, n=1), batch(2, n=1))["segmentation"] > 0


def test_a_term_that_reads_the_teacher_needs_mixing():
    found = losses_of(method(terms=("masked_consistency",)), batch(1), batch(2))
    assert any(name.startswith("masked_consistency.") for name in found)
    with pytest.raises(ValueError, match="masked_consistency reads a teacher's labels, and .* there is no teacher."):
        method(replace(PLAIN, lambda_mix=0.0), terms=("masked_consistency",))


# ---- the stage of depth, and transfer


def test_depth_is_the_mean_over_both_kinds_of_pictures_and_reads_no_label():
    m, source, target = method(DepthSettings(), Depth, "depth"), batch(1), batch(2)
    assert Depth.streams(m.settings) == {"source": Stream(depth=True), "target": Stream(depth=True)} and not Depth.segments
    first, second = dictionaries(m, source, target)
    P = m.segmenter(source.image)
    close(first["depth"], berhu(P.disparity, source.disparity).item(), LOSS)
    assert set(second) == {"depth_unlabelled"} and [m.weight(n) for n in ("depth", "depth_unlabelled")] == [0.5, 0.5]
    unlabelled = [b._replace(label=torch.full_like(b.label, 255)) for b in (source, target)]
    assert losses_of(m, *unlabelled) == losses_of(m, source, target)
    (first["depth"] + second["depth_unlabelled"]).backward()
    assert all(p.grad is not None and p.grad.any() for p in m.segmenter.backbone_parameters())


def test_depth_learns():
    """Blocks of 8 x 8 pixels as near as they are bright; by an optimiser of momentum."""
    torch.manual_seed(0)
    m = Depth(multitask(C, **NET, tasks="depth"), optimiser=OptimiserSettings("adamw", lr=0.003, head_factor=1.0)).train()
    blocks = [b.disparity[:, ::8, ::8].repeat_interleave(8, 1).repeat_interleave(8, 2) for b in (batch(1), batch(2))]
    seen = [batch(1)._replace(image=D[:, None].expand(-1, 3, -1, -1).clone(), disparity=D) for D in blocks]
    log = train(m, {"source": repeat(seen[0]), "target": repeat(seen[1])}, LoopSettings(steps=40, log_every=1), quiet=True)
    first, last = (log.records[k]["losses"]["depth"] for k in (0, -1))
    assert last < 0.5 * first


# ---- processes


SETTINGS = {
    "published": SegSDFSettings(),
    "half sure": replace(PLAIN, mixed_photometric="strong", mixing=MixingSettings(unmixed=0.3)),
    "class by class": replace(PLAIN, labels=LabelWeightSettings("class"), share_after=False, mix_from="labelled"),
}


def training(name: str) -> dict:
    m = method(DepthSettings(), Depth, "depth") if name == "depth" else method(SETTINGS[name])
    return trained(m, batch(1, 4), batch(2, 4))


def work() -> dict:
    return {name: training(name) for name in (*SETTINGS, "depth")}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return together(work, tmp_path_factory.mktemp("segsdf"))


@pytest.mark.parametrize("name", [*SETTINGS, "depth"])
def test_two_processes_train_like_one(two, name):
    # weights of three steps at rate 0.01 pass their rounding on
    assert_like_one([result[name] for result in two], training(name), LOSS * 3)


# ---- runs


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    root = tmp_path_factory.mktemp("street")
    options = {"size": (32, 64), "workers": 1, "progress": False}
    for seed, name, split in ((1, "labelled", "train"), (2, "others", "train"), (2, "others", "val")):
        ministreet.make("cityscapes", root / name, 4, seed, split=split, **options)
    return Pair(*(f"cityscapes:{root / name}" for name in ("labelled", "others")), f"cityscapes:{root / 'others'}@val")


SMALL = (
    "network=small", "network=multitask", f"network_options={NET}", "batch_size=2", "source_size=64x32", "target_size=64x32",
    "test_size=64x32", "log_every=1",
)  # fmt: skip


@pytest.mark.parametrize("name", ["segsdf", "depth"])
def test_a_run_that_is_stopped_and_resumed_is_the_run(name, street, tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    chosen = recipe("ministreet", name).override(*SMALL, "steps=5", "warmup=0", "select=last", "depth_noise=0.2")
    _, log = whole_and_parts(chosen, street, tmp_path)
    assert '"depth_unlabelled"' in log


def test_a_plan_begins_the_decoder_of_classes_with_that_of_depth(street, tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    tasks_of = ("depth.network_options={'tasks': 'depth'}", "adapt.network_options={'tasks': 'both'}")
    common = (*SMALL, *tasks_of, "steps=2", "warmup=0", "adapt.lr=1e-12", "adapt.weight_decay=0")
    for part, tasks in ((None, "both"), ("transfer", "segmentation")):
        stages, out = plan("ministreet", "segsdf", common, part=part), tmp_path / tasks
        result = run_plan(stages, street, out, quiet=True)
        assert result["single"]["images"] == 4
        depth, adapt = (load_network(out / folder / "best.pt") for folder in ("1_depth", "2_adapt"))
        assert adapt[1].network_options["tasks"] == tasks and depth[1].network_options["tasks"] == "depth"
        learnt, begun = depth[0].state_dict(), adapt[0].state_dict()
        names = [n for n in learnt if n.startswith("decoders.depth.") and learnt[n].ndim > 1]
        assert len(names) > 3
        for n in names:  # at a rate of 1e-12 it stays where it began
            close(begun[n.replace("depth", "segmentation")], learnt[n], bound(8, torch.float32, learnt[n].abs().max()))


def test_skip_bad_leaves_out_a_picture_whose_depth_cannot_be_read(street, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "others"
    ministreet.make("cityscapes", root, 4, 2, size=(32, 64), workers=1, progress=False)
    first, second, *_ = sorted(root.rglob("*_depth.png"))
    os.truncate(first, 60), second.unlink()
    chosen = recipe("ministreet", "segsdf").override(*SMALL, "steps=2", "select=last")
    pair = replace(street, target=f"cityscapes:{root}", validation=None)
    with pytest.raises(FileNotFoundError, match="1 of 4 pictures without depth, the first: .* has no depth: wanted"):
        train_recipe(chosen, pair, tmp_path / "fails", quiet=True)
    train_recipe(chosen, replace(pair, skip_bad=True), tmp_path / "run", quiet=True)
    told = capsys.readouterr().err
    assert "Left out: 1 pictures without depth, 1 damaged files." in told and first.name in told


def test_a_data_set_without_depth_is_an_error_before_the_first_step(tmp_path, street):
    chosen = recipe("ministreet", "segsdf").override(*SMALL, "steps=2")
    write_image(tmp_path / "a.png")
    with pytest.raises(ValueError, match="folder has no place for it; wanted one of gta5, synthia, cityscapes"):
        train_recipe(chosen, replace(street, target=f"folder:{tmp_path}"), tmp_path / "run", quiet=True)


# ---- full size


def test_a_step_with_the_published_network_at_full_depth():
    torch.manual_seed(0)
    network = multitask(19, "deeplab_v2", form="proca", bn="train")
    m = SegSDF(network, optimiser=OptimiserSettings(lr=1e-3)).train()

    def pictures(seed: int) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        image, D = torch.randn(2, 3, 65, 65, generator=generator), torch.rand(2, 65, 65, generator=generator)
        return Batch(image, torch.randint(0, 19, (2, 65, 65), generator=generator), ["a", "b"], disparity=D)

    streams = {"source": repeat(pictures(1)), "target": repeat(pictures(2))}
    log = train(m, streams, LoopSettings(steps=1, log_every=1), quiet=True)
    assert all(np.isfinite(v) for v in log.records[0]["losses"].values())


def test_the_whole_step_needs_no_values():
    m = method().to("meta")
    batches = {k: Batch(b.image.to("meta"), b.label.to("meta"), b.name, disparity=b.disparity.to("meta"))
               for k, b in (("source", batch(1)), ("target", batch(2)))}  # fmt: skip
    for losses in m.losses(**batches):
        sum(losses.values()).backward()


def test_weights_of_classes_are_the_ones_of_the_cross_entropy():
    """`supervised` of a network with one output is the plain cross-entropy."""
    m = method(replace(PLAIN, lambda_mix=0.0, lambda_depth=0.0), tasks="segmentation")
    found = losses_of(m, batch(1), batch(2))["segmentation"]
    close(found, cross_entropy(m.segmenter(batch(1).image).logits, batch(1).label, align_corners=False).item(), LOSS)
