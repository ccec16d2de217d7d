"""SemiSegContrast against an oracle with loops; when each part begins; what changes the network; processes, a stopped run."""

import math
import shlex
from dataclasses import replace
from itertools import repeat
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from course_lib.data import Batch, ministreet
from course_lib.data.sampling import mixed_seed
from course_lib.engine import LoopSettings, train
from course_lib.experiments.compute import build_meta
from course_lib.experiments.train import Pair
from course_lib.methods import OptimiserSettings, SemiSeg, SemiSegSettings
from course_lib.methods.step import Passes
from course_lib.methods.terms.memory_contrast import MemoryContrast, MemoryContrastSettings
from course_lib.methods.terms.region_contrast import RegionContrast, RegionContrastSettings
from course_lib.mixing import MixingSettings, class_mask, uniform
from course_lib.networks import deeplab_v2, small
from course_lib.recipes import recipe
from tests.bounds import bound, close, far
from tests.processes import assert_like_one, together, trained, whole_and_parts

C, H, W = 5, 16, 32
NOW = {"mix_after": 0, "balance_from": 0, "ramp_steps": 0, "balance_window": 4}  # each part from the first step on
PLAIN = SemiSegSettings(mixed_photometric="none", mixed_blur=0.0, mixing=MixingSettings(unmixed=0.0), **NOW)
MEMORY = {"first_step": 0, "loss_from": 0, "length": 12, "labelled": 4, "least_confidence": 0.0, "memory_hidden": 8,
          "memory_out": 8, "selector_hidden": 8}  # fmt: skip
LOSS = bound(200, torch.float32, 20.0) + bound(4 * H * W, torch.float32, 20.0)  # logits below 20, as in test_dacs


def batch(seed: int, n: int = 3, labelled: bool = True) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(n, 3, H, W, generator=generator)
    label = torch.randint(0, C, (n, H // 4, W // 4), generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2)
    label[:, :2] = 255
    return Batch(image, label if labelled else torch.full_like(label, 255), [f"{seed}_{i}.png" for i in range(n)])


def method(settings: SemiSegSettings = PLAIN, memory: bool = False, **term) -> SemiSeg:
    torch.manual_seed(0)
    network = small(C, width=8)
    with torch.no_grad():  # a teacher that is not equally unsure of all pixels
        network.classifier.weight.mul_(20)
    terms = {"memory_contrast": MemoryContrast(network, MemoryContrastSettings(**MEMORY | term))} if memory else {}
    optimiser = OptimiserSettings(lr=0.01, head_factor=1.0, momentum=0.0, weight_decay=0.0)
    return SemiSeg(network, settings, optimiser, terms=terms).train()


def losses_of(m: SemiSeg, source: Batch, target: Batch, step: int = 3) -> dict[str, torch.Tensor]:
    m.begin_step(step, 10)
    m.terms.begin_step(step, 10)
    return {name: loss for losses in m.losses(source=source, target=target) for name, loss in losses.items()}


def values(losses: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: loss.item() for name, loss in losses.items()}


def test_regions_can_be_contrasted_too():
    """Its mixed batch has two views of each picture beside one labelled one."""
    m = method()
    settings = RegionContrastSettings(queries=4, negatives=6, hidden=8, out=6, strong_threshold=1.0)
    contrast = RegionContrast(m.segmenter, settings)
    m = SemiSeg(m.segmenter, PLAIN, terms={"region_contrast": contrast}).train()
    assert losses_of(m, batch(1), batch(2, labelled=False))["region_contrast.contrast"] > 0


def up(logits: torch.Tensor) -> torch.Tensor:
    return F.interpolate(logits, size=(H, W), mode="bilinear", align_corners=True)


# ---- the step -------------------------------------------------------------------------------------------------------


def test_a_step_is_the_papers_with_loops():
    """Labelled and unlabelled ClassMix, class weights, two flipped views, both cross-entropies and the entropy, from the
    equations; all in the order of the random numbers that the method draws."""
    settings = replace(PLAIN, mix_labelled=0.8, ramp_steps=10)
    m, source, target, N = method(settings), batch(1), batch(2, labelled=False), 3
    m.begin_step(3, 10)
    numbers = torch.Generator().manual_seed(mixed_seed(m.seed, 6, 3, 0))
    M_S = class_mask(source.label.roll(-1, 0), C, generator=numbers).numpy()
    M_S = M_S & (uniform((N, 1, 1), "cpu", numbers).numpy() < 0.8)
    assert 0.02 < M_S.mean() < 0.98
    x_S, y_S = source.image.clone(), source.label.numpy().copy()
    for n, i, j in np.ndindex(N, H, W):
        if M_S[n, i, j]:
            x_S[n, :, i, j], y_S[n, i, j] = source.image[(n + 1) % N, :, i, j], source.label[(n + 1) % N, i, j]
    with torch.no_grad():
        p = up(m.teacher(target.image).logits).softmax(1).double().numpy()
    y, q = p.argmax(1), math.exp(-5 * (1 - 3 / 10) ** 2) * p.max(1) ** 6
    f = np.array([(y_S == c).sum() + (y == c).sum() for c in range(C)], dtype=float)
    w = np.sqrt(np.median(f[f > 0]) / np.maximum(f, 1))
    w = np.where(f > 0, w, w[f > 0].max())
    views = []
    for _ in range(2):
        M = class_mask(torch.from_numpy(y).roll(-1, 0), C, generator=numbers).numpy()
        flip = uniform((N, 1, 1), "cpu", numbers).flatten().numpy() < 0.5
        x_k, y_k, q_k = torch.zeros_like(target.image), np.zeros_like(y), np.zeros_like(q)
        for n, i, j in np.ndindex(N, H, W):
            of, column = (n + 1) % N if M[n, i, j] else n, W - 1 - j if flip[n] else j
            x_k[n, :, i, column] = target.image[of, :, i, j]
            y_k[n, i, column], q_k[n, i, column] = y[of, i, j], q[of, i, j]
        views.append((x_k, y_k, q_k))
    x_k, (y_k, q_k) = torch.cat([view[0] for view in views]), (np.concatenate([view[k] for view in views]) for k in (1, 2))
    with torch.no_grad():
        P_S = up(m.segmenter(x_S).logits).log_softmax(1).double().numpy()
        logits = m.segmenter(x_k).logits.double()
        P_k = up(logits).log_softmax(1).numpy()
        p_k = logits.softmax(1).numpy()
    known = [(n, i, j) for n, i, j in np.ndindex(N, H, W) if y_S[n, i, j] != 255]
    L_S = -sum(w[y_S[n, i, j]] * P_S[n, y_S[n, i, j], i, j] for n, i, j in known) / sum(w[y_S[at]] for at in known)
    L_k = -sum(q_k[n, i, j] * w[y_k[n, i, j]] * P_k[n, y_k[n, i, j], i, j] for n, i, j in np.ndindex(2 * N, H, W))
    found = values(losses_of(m, source, target))
    close(found, {"segmentation": L_S, "mixed": L_k / (2 * N * H * W),
                  "entropy": -(p_k * np.log(p_k)).sum(1).mean() / math.log(C)}, LOSS)  # fmt: skip
    assert m.weight("entropy") == 0.01 and m.weight("mixed") == 1.0


def test_each_named_loss_is_finite_and_not_0_and_teaches_the_encoder():
    m = method(memory=True)
    with torch.no_grad():
        losses_of(m, batch(5), batch(6))
    found = losses_of(m, batch(1), batch(2))
    assert set(found) == {"segmentation", "mixed", "entropy", "memory_contrast.source", "memory_contrast.mixed"}
    for name, loss in found.items():
        assert loss.isfinite() and loss != 0, name
        slopes = torch.autograd.grad(loss, list(m.segmenter.stem.parameters()), retain_graph=True)
        assert all(g.isfinite().all() for g in slopes) and any(bool(g.any()) for g in slopes), name


def test_labels_of_unlabelled_pictures_are_never_read():
    assert values(losses_of(method(), batch(1), batch(2))) == values(losses_of(method(), batch(1), batch(2, labelled=False)))


PARTS = {
    "mixing of views": {"mix_after": 4}, "mixing of labelled pictures": {"mix_labelled": 0.0},
    "class weights": {"balance_from": 4}, "flips": {"view_flip": 0.0}, "the ramp": {"ramp_steps": 10},
}  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
def test_each_part_changes_the_losses_and_can_be_switched_off(part):
    settings = replace(PLAIN, mix_labelled=1.0)
    whole, without = (values(losses_of(method(s), batch(1), batch(2))) for s in (settings, replace(settings, **PARTS[part])))
    assert far(list(whole.values()), list(without.values()), 1e-4)


@pytest.mark.parametrize("name", ["mix_after", "balance_from"])
def test_parts_begin_at_their_step(name):
    """Before it, the losses are those of a method that never has the part; from it on, of one that always has it."""
    never, always, late = (method(replace(PLAIN, **{name: step})) for step in (100, 0, 4))
    before, at = ({m: values(losses_of(m, batch(1), batch(2), step)) for m in (never, always, late)} for step in (3, 4))
    assert before[late] == before[never] != before[always] and at[late] == at[always] != at[never]


def test_entropy_and_memory_change_the_network_and_a_weight_of_0_does_not():
    def weights(settings: SemiSegSettings, memory: bool, **term) -> torch.Tensor:
        m = method(settings, memory, **term)
        train(m, {"source": repeat(batch(1)), "target": repeat(batch(2))}, LoopSettings(steps=2, warmup=0), quiet=True)
        return torch.cat([p.detach().flatten() for p in m.segmenter.stem.parameters()])

    base = weights(PLAIN, False)
    sure = bound(200, torch.float32, base.abs().max().item())
    close(weights(PLAIN, True, weight=0.0), base, sure)
    assert far(weights(PLAIN, True, weight=10.0), base, 10 * sure.value)
    assert far(weights(replace(PLAIN, lambda_entropy=5.0), False), base, 10 * sure.value)


def test_the_next_labelled_picture_is_pasted_with_its_label_its_margins_and_its_plain_picture():
    m, source = method(replace(PLAIN, mix_labelled=1.0)), batch(1)
    place = torch.arange(3.0)[:, None, None].expand(3, H, W)
    given = source._replace(image=place[:, None].expand(3, 3, H, W), plain=-place[:, None].expand(3, 3, H, W), valid=place == 1)
    found = m.mixed_labelled(given, torch.Generator().manual_seed(0))
    pasted = found.image[:, 0] != place
    assert 0.1 < pasted.float().mean() < 0.9 and torch.equal(found.image[:, 0], torch.where(pasted, (place + 1) % 3, place))
    assert torch.equal(found.label, torch.where(pasted, source.label.roll(-1, 0), source.label))
    assert torch.equal(found.plain[:, 0], -found.image[:, 0]) and torch.equal(found.valid, found.image[:, 0] == 1)
    off = method(replace(PLAIN, mix_labelled=0.0))
    assert off.mixed_labelled(given, torch.Generator()) is given


def test_one_picture_has_nothing_to_be_mixed_with():
    one = batch(1, n=1), batch(2, n=1)
    with pytest.raises(ValueError, match="semiseg mixes two labelled pictures, and a step has 1. .*or mix_labelled=0"):
        losses_of(method(replace(PLAIN, mix_from="labelled", mix_labelled=0.2)), *one)
    with pytest.raises(ValueError, match="semiseg mixes two unlabelled pictures, and a step has 1"):
        losses_of(method(replace(PLAIN, mix_labelled=0.0)), *one)
    assert losses_of(method(replace(PLAIN, mix_from="labelled", mix_labelled=0.0)), *one)["mixed"] > 0


def test_the_published_constants():
    s = SemiSegSettings()
    assert (s.labels.weighting, s.labels.confidence_power, s.mixing.unmixed, s.lambda_entropy) == ("power", 6.0, 0.25, 0.01)
    assert (s.mix_after, s.balance_from, s.ramp_steps, s.mix_labelled) == (2001, 2001, 2000, 0.2)
    assert s.teacher.rate(1, 150_000) == 1 - 1 / 11 and s.teacher.alpha == 0.995
    assert SemiSeg.own_terms == ("memory_contrast",) and method().passes() == Passes(trained=3, frozen=1)
    few, between = (recipe(pair, "semiseg") for pair in ("cityscapes_few_labels", "gta5_cityscapes"))
    assert (few.optimiser.lr, few.optimiser.head_factor, few.loop.steps, few.batch_size) == (2e-4, 1.0, 150_000, 5)
    assert few.terms["memory_contrast"].per_picture == 1 and few.terms["memory_contrast"].weight == 0.1
    assert between.terms["memory_contrast"].weight == 0.2 and between.settings.teacher.rate(1, 150_000) == 0.5
    assert between.terms["memory_contrast"].per_picture == 3 and between.settings.mix_labelled == 0.25


def test_three_steps_with_the_published_network_at_full_depth():
    torch.manual_seed(0)
    network = deeplab_v2(19, "adaptsegnet_single")
    term = MemoryContrast(network, MemoryContrastSettings(first_step=0, loss_from=0, least_confidence=0.0))
    m = SemiSeg(network, SemiSegSettings(**NOW), terms={"memory_contrast": term}).train()
    first = {name: value.clone() for name, value in network.state_dict().items() if name in ("conv1.weight", "bn1.weight")}
    generator = torch.Generator().manual_seed(0)

    def pictures():
        while True:
            image = torch.randn(2, 3, 65, 65, generator=generator)
            yield Batch(image, torch.randint(0, 19, (2, 65, 65), generator=generator), ["a", "b"])

    log = train(m, {"source": pictures(), "target": pictures()}, LoopSettings(steps=3, log_every=1), quiet=True)
    assert all(math.isfinite(value) for record in log.records for value in record["losses"].values())
    assert list(log.records[2]["losses"]) == [
        "segmentation", "memory_contrast.source", "mixed", "entropy", "memory_contrast.mixed"
    ]  # fmt: skip
    assert not torch.equal(first["conv1.weight"], network.state_dict()["conv1.weight"])
    assert term.queue.features.shape == (19, 256, 256) and term.queue.filled.any()


@pytest.mark.parametrize("field, value, words", [
    ("mix_labelled", 1.5, "mix_labelled is 1.5; it wants a number from 0.0 to 1.0"), ("view_flip", -0.1, "view_flip is -0.1"),
    ("ramp_steps", -1, "ramp_steps is -1; it wants a whole number from 0"), ("balance_window", 0, "balance_window is 0"),
    ("lambda_entropy", float("nan"), "lambda_entropy is nan"), ("mix_after", -1, "mix_after is -1"),
    ("balance_from", -1, "balance_from is -1"), ("mix_from", "both", "mix_from: it holds 'both'"),
])  # fmt: skip
def test_settings_out_of_range_are_refused(field, value, words):
    with pytest.raises(ValueError, match=words):
        SemiSegSettings(**{field: value})


# ---- processes and state --------------------------------------------------------------------------------------------


def work() -> dict:
    m = method(replace(SemiSegSettings(**NOW), mix_labelled=0.5), memory=True)
    return trained(m, batch(1, 4), batch(2, 4), warmup=0)


def test_two_processes_train_like_one(tmp_path):
    assert_like_one(together(work, tmp_path), work(), LOSS * 3)  # weights of three steps at rate 0.01 pass their rounding on


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, monkeypatch):
    """Queues, counts of classes, teacher and both selectors, with the memory filled before the stop."""
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    options = {"size": (H, W), "workers": 1, "progress": False}
    source = ministreet.make("cityscapes", tmp_path / "a", 4, 1, **options)
    target = ministreet.make("cityscapes", tmp_path / "b", 4, 2, **options)
    pair, size = Pair(f"cityscapes:{source}", f"cityscapes:{target}"), f"{W}x{H}"
    chosen = recipe("ministreet", "semiseg").override(
        "network=small", "network_options={'width': 8}", "batch_size=2", "start_steps=0", f"source_size={size}",
        f"target_size={size}", f"test_size={size}", "select=last", "steps=6", "log_every=1", "sampling=uniform",
        *(f"{key}={value}" for key, value in NOW.items()),
        *(f"terms.memory_contrast.{key}={value}" for key, value in MEMORY.items()),
    )  # fmt: skip
    whole, log = whole_and_parts(chosen, pair, tmp_path)
    assert whole["method"]["terms.memory_contrast.queue.filled"].any() and whole["method"]["balance.taken"].item() == 6
    assert '"memory_contrast.mixed"' in log


def test_the_other_network_of_the_paper_is_made_by_the_command_of_the_docs():
    """DeepLabV3+ with ResNet-50."""
    text = (Path(__file__).parents[2] / "docs" / "commands.md").read_text(encoding="utf-8")
    (line,) = (line for line in text.splitlines() if line.startswith("uda run semiseg") and "deeplab_v3plus" in line)
    words = shlex.split(line)
    settings = [value for option, value in zip(words, words[1:]) if option == "--set"]
    chosen = recipe("cityscapes_few_labels", "semiseg").override(*settings)
    assert (chosen.batch_size, chosen.optimiser.lr, chosen.source_size, chosen.crop) == (7, 4e-4, (1024, 2048), (512, 512))
    m = build_meta(chosen.override("network_options={'imagenet': False}"))
    names = m.segmenter.state_dict()
    assert len([name for name in names if name.endswith("conv3.weight")]) == 3 + 4 + 6 + 3, "50 layers"
    assert m.segmenter.feature_dim == 256 and "memory_contrast" in m.terms
