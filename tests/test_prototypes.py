"""The bank against plain means of all vectors ever seen, its rules, its state, and ProCA's parts in two processes."""

import io

import pytest
import torch

from course_lib import ranks
from course_lib.losses import prototype_contrast
from course_lib.prototypes import ClassSums, PrototypeBank
from course_lib.pseudo_labels import LabelQuality, class_thresholds
from tests import bounds
from tests.bounds import bound
from tests.oracles import prototypes as oracle
from tests.processes import together

C, D = 5, 6


def batch(seed: int, N: int = 2, H: int = 3, W: int = 4, classes: int = C, dtype=torch.float32):
    """Features of a positive mean, labels with ignored pixels; the last class is nowhere."""
    generator = torch.Generator().manual_seed(seed)
    features = 1 + seed + torch.randn(N, D, H, W, generator=generator)
    labels = torch.randint(0, classes - 1, (N, H, W), generator=generator)
    labels[0, 0, seed % W] = 255
    return features.to(dtype), labels


def vectors(*batches):
    """All features of the batches as one list of vectors, and their labels."""
    features = [row for f, _ in batches for row in f.double().permute(0, 2, 3, 1).flatten(0, 2).tolist()]
    return features, [label for _, y in batches for label in y.flatten().tolist()]


def means(*batches) -> torch.Tensor:
    return torch.tensor([m or [0.0] * D for m in oracle.class_means(*vectors(*batches), C)], dtype=torch.float64)


# Numbers below 10 (one test: 40), float64 sums of up to 150 of them; prototypes are rounded to float32 once, twice if mixed.
FLOAT32, SUMS, MEANS = bound(3, torch.float32, 10.0), bound(150, torch.float64, 150 * 10), bound(150, torch.float64, 40.0)


def close(a, b, tolerance: bounds.Tolerance = FLOAT32) -> None:
    bounds.close(a, b, tolerance)


def bank_of(first, **settings) -> PrototypeBank:
    bank = PrototypeBank(C, D, **settings)
    bank.initialise(ClassSums(C, D).add(*first))
    return bank


# ---- sums and counts ------------------------------------------------------------------------------------------------


def test_initialisation_is_the_mean_of_the_slide():
    parts = [batch(0), batch(1, H=5)]
    sums = ClassSums(C, D)
    for part in parts:
        sums.add(*part)
    close(sums.mean(), means(*parts))
    assert sums.counts.tolist() == [vectors(*parts)[1].count(c) for c in range(C)]


@pytest.mark.parametrize("layout", ["flat", "channels_last", "bytes"])
def test_every_layout_gives_the_same_sums(layout):
    features, labels = batch(0)
    wanted = ClassSums(C, D).add(features, labels)
    if layout == "flat":
        features, labels = features.permute(0, 2, 3, 1).flatten(0, 2), labels.flatten()
    elif layout == "channels_last":
        features = features.contiguous(memory_format=torch.channels_last)
    else:
        labels = labels.byte()
    sums = ClassSums(C, D).add(features, labels)
    assert torch.equal(sums.counts, wanted.counts)
    close(sums.sums, wanted.sums, SUMS)


def test_pixels_are_taken_in_parts(monkeypatch):
    monkeypatch.setattr("course_lib.prototypes._AT_A_TIME", 5 * D)
    close(ClassSums(C, D).add(*batch(0)).mean(), means(batch(0)))


def test_half_precision_and_autocast_sum_in_float64():
    """10,000 times 1 + 2^-7: a bfloat16 sum stops at 256, a float32 one is off by 1e-4."""
    features = torch.full((10_000, D), 1 + 2**-7, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sums = ClassSums(C, D).add(features, torch.zeros(10_000, dtype=torch.int64))
    assert sums.sums[0].tolist() == [10_000 * (1 + 2**-7)] * D


def test_counts_still_move_after_a_hundred_million_pixels():
    sums = ClassSums(C, D)
    sums.counts[0], sums.sums[0] = 2.0**27, 2.0**27
    sums.add(torch.ones(1, D), torch.tensor([0]))
    assert sums.counts[0] == 2**27 + 1 and sums.sums[0, 0] == 2**27 + 1


# ---- the rules ------------------------------------------------------------------------------------------------------


def test_strict_mean_is_the_mean_of_every_vector_ever_seen():
    parts = [batch(seed) for seed in range(30)]
    bank = bank_of(parts[0])
    for i, part in enumerate(parts[1:]):
        bank.update(*part, domain="target" if i % 2 else "source")
    close(bank.prototypes, means(*parts), bound(1, torch.float32, 40.0))
    close(bank.mean[0], means(*parts), MEANS)
    assert bank.count[0].tolist() == [vectors(*parts)[1].count(c) for c in range(C)]


def test_a_bank_needs_no_initialisation():
    bank = PrototypeBank(C, D)
    bank.update(*batch(1), domain="source")
    close(bank.prototypes, means(batch(1)))


def test_inertia_of_the_released_run():
    """359.5 million vectors, then 14,400: the prototype moves by a share of 4e-5, and the digits are there."""
    bank = PrototypeBank(1, 1)
    bank.mean[:], bank.count[:] = 1.0, 359.5e6
    bank.update(torch.full((14_400, 1), 2.0), torch.zeros(14_400, dtype=torch.int64), domain="source")
    close(bank.mean.item() - 1, 14_400 / (359.5e6 + 14_400), bound(10, torch.float64))


def test_ema_weighs_the_old_prototype_with_momentum():
    bank = bank_of(batch(0), rule="ema", momentum=0.7)
    bank.update(*batch(3), domain="target")
    close(bank.prototypes, 0.7 * means(batch(0)) + 0.3 * means(batch(3)))
    bank.update(*batch(4), domain="source")
    close(bank.prototypes, 0.7 * (0.7 * means(batch(0)) + 0.3 * means(batch(3))) + 0.3 * means(batch(4)))


def test_ema_takes_a_class_whole_at_first_sight():
    bank = PrototypeBank(C, D, rule="ema", momentum=0.9)
    bank.update(*batch(3), domain="source")
    close(bank.prototypes, means(batch(3)))


@pytest.mark.parametrize("m", [0.0, 0.3, 1.0])
def test_mix_is_the_convex_combination_of_two_means(m):
    bank = bank_of(batch(0), rule="mix", m=m)
    bank.update(*batch(1), domain="source")
    bank.update(*batch(2), domain="target")
    bank.update(*batch(5), domain="target")
    close(bank.prototypes, m * means(batch(0), batch(1)) + (1 - m) * means(batch(2), batch(5)))


def test_mix_of_a_class_that_one_domain_lacks_is_the_other():
    bank = PrototypeBank(3, 1, rule="mix", m=0.25)
    bank.update(torch.tensor([[4.0], [8.0]]), torch.tensor([0, 1]), domain="source")
    bank.update(torch.tensor([[2.0], [6.0]]), torch.tensor([1, 2]), domain="target")
    assert bank.prototypes.flatten().tolist() == [4.0, 3.5, 6.0]


def test_mix_is_initialised_per_domain():
    bank = bank_of(batch(0), rule="mix", m=0.5)
    bank.initialise(ClassSums(C, D).add(*batch(1)), domain="target")
    close(bank.prototypes, (means(batch(0)) + means(batch(1))) / 2)


@pytest.mark.parametrize("settings", [{"rule": "fixed"}, {"feed": "target"}, {"feed": "target", "rule": "ema"}])
def test_fixed_and_target_only_leave_source_batches_out(settings):
    bank = bank_of(batch(0), **settings)
    bank.update(*batch(1), domain="source")
    close(bank.prototypes, means(batch(0)))


def test_feeding_one_domain_only():
    for feed, other in (("source", "target"), ("target", "source")):
        bank = bank_of(batch(0), feed=feed)
        bank.update(*batch(1), domain=feed)
        bank.update(*batch(2), domain=other)
        close(bank.prototypes, means(batch(0), batch(1)))


# ---- classes without pixels, gradients, numbers that are none --------------------------------------------------------


@pytest.mark.parametrize("rule", ["mean", "ema", "mix"])
def test_classes_without_pixels_keep_their_prototype(rule):
    bank = bank_of(batch(0), rule=rule)
    before = bank.prototypes
    bank.update(torch.randn(2, D, 3, 4), torch.full((2, 3, 4), 255), domain="source")
    assert torch.equal(bank.prototypes, before) and before.isfinite().all()
    assert bank.seen.tolist() == [True] * 4 + [False] and not bank.prototypes[4].any()


def test_nothing_of_the_network_is_kept():
    features, labels = batch(1)
    bank = bank_of(batch(0))
    bank.update((2 * features.requires_grad_()), labels, domain="source")
    assert not bank.prototypes.requires_grad and list(bank.parameters()) == []


def test_prototypes_taken_earlier_stay_what_they_were():
    bank = bank_of(batch(0))
    taken = bank.prototypes
    bank.update(*batch(5), domain="source")
    close(taken, means(batch(0)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_batch_that_is_not_finite_changes_nothing(bad):
    bank = bank_of(batch(0))
    features, labels = batch(1)
    features[0, 0, 1, 1] = bad
    bank.update(features, labels, domain="source")
    close(bank.prototypes, means(batch(0)))
    bank.update(*batch(2), domain="source")
    close(bank.prototypes, means(batch(0), batch(2)))


# ---- state and errors -----------------------------------------------------------------------------------------------


def test_a_resumed_bank_is_the_same_bank():
    first, resumed = bank_of(batch(0), rule="mix"), PrototypeBank(C, D, rule="mix")
    first.update(*batch(1), domain="target")
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for bank in (first, resumed):
        bank.update(*batch(2), domain="source")
    assert torch.equal(first.prototypes, resumed.prototypes) and torch.equal(first.count, resumed.count)
    dtypes = {name: tensor.dtype for name, tensor in first.state_dict().items()}
    assert dtypes == {"mean": torch.float64, "count": torch.float64}


def test_errors_say_what_came_and_what_was_wanted():
    for settings, message in [
        ({"rule": "median"}, "rule 'median' and feed 'both'; choose a rule of mean, ema, mix, fixed"),
        ({"feed": "all"}, "feed 'all'; .* both, source, target"),
        ({"momentum": 1.5}, "momentum is 1.5 and m is 0.5; both are shares"),
    ]:
        with pytest.raises(ValueError, match=message):
            PrototypeBank(C, D, **settings)
    bank = PrototypeBank(C, D)
    with pytest.raises(ValueError, match="domain is 'camera'; it must be 'source' or 'target'"):
        bank.update(*batch(0), domain="camera")
    with pytest.raises(ValueError, match=f"features of {D + 1} channels; these prototypes have {D}"):
        bank.update(torch.zeros(2, D + 1), torch.zeros(2, dtype=torch.int64), domain="source")
    with pytest.raises(ValueError, match=r"features \(2, 6, 3, 4\) and labels \(2, 6, 8\)"):
        bank.update(batch(0)[0], torch.zeros(2, 6, 8, dtype=torch.int64), domain="source")


# ---- two processes --------------------------------------------------------------------------------------------------


def contrast(part: slice, similarity: str) -> dict:
    """Almost no labels in the first image, so that a plain mean over the processes is wrong."""
    features, labels = batch(0, dtype=torch.float64)
    labels[0, 1:] = 255
    features = features[part].requires_grad_()
    loss = prototype_contrast(features, labels[part], means(batch(1)), 0.5, similarity)
    loss.backward()
    return {"loss": loss.detach(), "gradient": features.grad}


def nothing() -> torch.Tensor:
    features = batch(0)[0].requires_grad_()
    loss = prototype_contrast(features, torch.full((2, 3, 4), 255), torch.ones(C, D), 0.5, "cosine")
    loss.backward()
    return loss.detach() + features.grad.abs().sum()


def run(part: slice, **settings) -> dict:
    """A bank's life; the last class of the first image is nowhere in the second."""
    bank = PrototypeBank(C, D, **settings)

    def joint(seed):
        features, labels = batch(seed)
        labels[0, 2, 3] = C - 1
        return features[part], labels[part]

    bank.initialise(ClassSums(C, D).add(*joint(0)))
    for seed in (1, 2, 3):
        bank.update(*joint(seed), domain="target" if seed == 2 else "source")
    return {"prototypes": bank.prototypes, "count": bank.count, "seen": bank.seen}


def labelled(images: range) -> dict:
    """Thresholds over images of different confidence, and the quality of labels."""

    def read():
        for i in images:
            generator = torch.Generator().manual_seed(i)
            sure = torch.rand(4, 50, generator=generator) ** (1 + i)
            yield sure, torch.randint(0, 3, (4, 50), generator=generator)

    quality = LabelQuality(3)
    for sure, prediction in read():
        quality.add(prediction, (prediction * (sure > 0.3)).long())
    quality = quality.total()
    return {"thresholds": class_thresholds(read, 4), "quality": [quality.density, quality.accuracy, int(quality.pixels)]}


RULES = {rule: {"rule": rule} for rule in ("mean", "ema", "mix", "fixed")}


def work() -> dict:
    r = ranks.rank()
    part = slice(r, r + 1)
    result = {rule: run(part, **settings) for rule, settings in RULES.items()}
    result |= {similarity: contrast(part, similarity) for similarity in ("dot", "cosine")}
    return result | {"nothing": nothing(), "labelled": labelled(range(0, 4) if r == 0 else range(4, 5))}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return together(work, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("rule", RULES)
def test_two_processes_keep_the_bank_of_one(results, rule):
    whole = run(slice(None), **RULES[rule])
    for result in results:
        for name, tensor in whole.items():
            close(result[rule][name], tensor, FLOAT32)
    assert torch.equal(results[0][rule]["prototypes"], results[1][rule]["prototypes"])


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_two_processes_have_the_contrast_of_one(results, similarity):
    whole = contrast(slice(None), similarity)
    losses = [result[similarity]["loss"].item() for result in results]
    close(sum(losses) / 2, whole["loss"].item(), bound(200, torch.float64, 40.0))
    assert abs(losses[0] - losses[1]) > 0.1
    gradient = torch.cat([result[similarity]["gradient"] for result in results]) / 2
    close(gradient, whole["gradient"], bound(200, torch.float64, gradient.abs().max() * 10))
    assert all(result["nothing"] == 0 for result in results)


def test_two_processes_find_the_thresholds_of_one(results):
    whole = labelled(range(5))
    for result in results:
        assert torch.equal(result["labelled"]["thresholds"], whole["thresholds"])
        close(result["labelled"]["quality"], whole["quality"], bound(5, torch.float64))
