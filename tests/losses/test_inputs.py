"""What every loss does with number formats and labels; the losses and their inputs are those of test_arithmetic."""

import math
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from course_lib import losses
from course_lib.losses import (
    MemoryBank,
    bidirectional_contrast,
    cross_entropy,
    entropy,
    lovasz_softmax,
    nt_xent,
    prototype_contrast,
    upsample,
)
from course_lib.losses.adversarial import TARGET, domain_loss, probabilities
from course_lib.losses.inputs import train_ids
from course_lib.prototypes import ClassSums, PrototypeBank
from tests.bounds import bound, close, near
from tests.losses.test_arithmetic import BOTH, CASES, CONSTANTS, C, D, Inputs, drawn

STATISTICS = ("distribution_contrast", "bank_contrast", "uniform_regulariser")
LABELLED = [name for name in CASES if name.startswith(("cross_entropy", "lovasz", "prototype", "bidirectional") + STATISTICS)]
HALF = [torch.float16, torch.bfloat16]


def cast(x: Inputs, dtype: torch.dtype) -> Inputs:
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in x.items()}


def computed(name: str, x: Inputs, *autocast: torch.dtype) -> list[Tensor]:
    """The loss, and its gradient for each operand that has one."""
    leaves = {key: x[key].clone().requires_grad_() for key in CASES[name].operands if key not in CONSTANTS}
    with torch.autocast("cpu", *autocast, enabled=bool(autocast)):
        loss = CASES[name].loss(x | leaves)
    return [loss.detach(), *torch.autograd.grad(loss, list(leaves.values()))]


# ---- number formats -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", CASES)
def test_half_precision_is_computed_in_float32(name, dtype):
    """To the last bit what float32 gives for the same numbers; each gradient is rounded to its operand's format."""
    x = cast(drawn(0), dtype)
    wanted = computed(name, cast(x, torch.float32))
    for found in (computed(name, x), computed(name, x, torch.bfloat16)):  # outside autocast and inside
        assert found[0].dtype == torch.float32 and torch.equal(found[0], wanted[0])
        for slope, exact in zip(found[1:], wanted[1:]):
            assert slope.dtype == dtype and torch.equal(slope, exact.to(dtype))


@pytest.mark.parametrize("name", CASES)
def test_autocast_changes_nothing(name):
    """Lovasz-softmax took its product in half precision there: 0.3 % of the gradient, and weights below 6e-8 were 0."""
    for found, wanted in zip(computed(name, drawn(0), torch.bfloat16), computed(name, drawn(0))):
        assert found.dtype == torch.float32 and torch.equal(found, wanted)


@pytest.mark.parametrize("name", CASES)
def test_float64_stays(name):
    x = cast(drawn(0), torch.float64)
    x["bank"] = torch.nn.functional.normalize(x["bank"])  # the oracle's rows are of length 1
    exact = CASES[name].exact(x)
    assert all(part.dtype == torch.float64 for part in computed(name, x))
    # the loss and the oracle both round in float64, whose unit is 2^-29 of that of float32
    close(CASES[name].loss(x), exact, CASES[name].tolerance(exact) * 2 * 2.0**-29)


@pytest.mark.parametrize("dtype", HALF)
def test_sums_over_many_pixels_and_large_scores_do_not_overflow(dtype):
    """65536 pixels of ln 19 are more than float16 holds, and so is the square of 300."""
    logits, label = torch.zeros(1, 19, 256, 256, dtype=dtype), torch.zeros(1, 256, 256, dtype=torch.int64)
    rounding = bound(200, torch.float32, math.log(19))
    close(cross_entropy(logits, label), math.log(19), rounding)
    close(entropy(logits), math.log(19), rounding)
    close(lovasz_softmax(logits, label), 18 / 19, rounding)
    score = torch.full((1, 1, 300, 300), -300, dtype=dtype)
    close(domain_loss(score, TARGET), 300.0, bound(90_000, torch.float32, 300.0))
    close(domain_loss(score, TARGET, "least-squares"), 301.0**2, bound(90_000, torch.float32, 301.0**2))


@pytest.mark.parametrize("dtype", HALF)
def test_upsampling_before_a_softmax_is_in_float32(dtype):
    logits = (3 * torch.randn(1, 5, 3, 4, generator=torch.Generator().manual_seed(0))).to(dtype)
    label = torch.arange(7 * 9).view(1, 7, 9) % 5
    wide = upsample(logits.float(), (7, 9))
    assert torch.equal(probabilities(logits, (7, 9)), wide.softmax(1)) and probabilities(logits).dtype == torch.float32
    for loss in (cross_entropy, lovasz_softmax):
        assert loss(logits, label) == loss(wide, label)
    assert probabilities(logits.double(), (7, 9)).dtype == torch.float64


# ---- gradients ------------------------------------------------------------------------------------------------------


# without losses of which a part counts as a constant: test_berhu, test_region_contrast
@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith(("berhu", "region_contrast"))])
def test_gradients_of_all_inputs_are_slopes(name):
    """All operands at once, and each alone: a backward pass may look at which of them require a gradient."""
    x = cast(drawn(1), torch.float64)
    keys = [key for key in CASES[name].operands if key not in CONSTANTS]
    for some in [keys, *([key] for key in keys if len(keys) > 1)]:
        leaves = [x[key].clone().requires_grad_() for key in some]
        assert torch.autograd.gradcheck(
            lambda *values, some=some: CASES[name].loss(x | dict(zip(some, values))), leaves, fast_mode=True
        ), some


@pytest.mark.parametrize("name, key", [(name, key) for name, case in CASES.items() for key in case.operands
                                       if key in ("prototypes", "weight")])  # fmt: skip
def test_constants_that_require_a_gradient_are_refused(name, key):
    x = drawn(0)
    x[key].requires_grad_()
    with pytest.raises(ValueError, match=rf"{key} requires? a gradient.*{key}\.detach\(\)"):
        CASES[name].loss(x)
    with torch.no_grad():
        assert CASES[name].loss(x) == CASES[name].loss(drawn(0))


@pytest.mark.parametrize("name", ["prototype_contrast, dot", "distribution_contrast", "bank_contrast",
                                  "patch_contrast, chunk 5", "region_contrast, chunk 3"])  # fmt: skip
def test_a_second_derivative_is_refused(name):
    """Of a backward pass written by hand; those with a form of torch's operations: test_nt_xent, test_pair_contrast."""
    x = drawn(0)
    leaf = x[CASES[name].operands[0]].requires_grad_()
    words = "create_graph=True.*cannot be differentiated a second time.*write .*formula.* with torch's own operations"
    with pytest.raises(RuntimeError, match=words):
        torch.autograd.grad(CASES[name].loss(x), leaf, create_graph=True)


def test_every_backward_written_by_hand_is_known():
    """The first five are of losses (above; test_region_contrast), the others of `ranks.gather` (two processes are one)."""
    files = (Path(losses.__file__).parents[1]).rglob("*.py")
    found = {match for path in files for match in re.findall(r"class (\w+)\(.*autograd\.Function\)", path.read_text("utf-8"))}
    assert found == {"_Chunked", "_Similarity", "_Gaussian", "_Bank", "_Against", "_Gather", "_Share"}


# ---- labels ---------------------------------------------------------------------------------------------------------

INTEGERS = [torch.uint8, torch.int16, torch.int32, torch.uint16, torch.uint32, torch.uint64]


def labelled(name: str, x: Inputs, ignore_index: int = 255) -> Tensor | list[Tensor]:
    """The loss by its name, as in CASES, with another `ignore_index`."""
    loss, _, form = name.partition(", ")
    if loss == "cross_entropy":
        return cross_entropy(x["logits"], x["label"], x["weight"] if form else None, ignore_index=ignore_index)
    if loss == "lovasz_softmax":
        return lovasz_softmax(x["logits"], x["label"], ignore_index=ignore_index)
    if loss == "prototype_contrast":
        balanced, similarity = "True" in form, form.partition(",")[0]
        tau = x["tau"] if similarity == "cosine" else 1.0
        return prototype_contrast(x["features"], x["label"], x["prototypes"], tau, similarity, balanced=balanced,
                                  ignore_index=ignore_index)  # fmt: skip
    if loss in STATISTICS:
        return CASES[name].loss(x, ignore_index=ignore_index)
    options = {"all classes": {"overlap_only": False}, "pairwise": {"pairwise": True}, "balanced": {"balanced": True}}
    both = bidirectional_contrast(*(x[key] for key in BOTH), C, x["tau"], ignore_index=ignore_index,
                                  **options.get(form.partition(",")[0], {}))  # fmt: skip
    return both.forward if form.endswith("forward") else both.backward


def with_labels(x: Inputs, change) -> Inputs:
    return x | {key: change(x[key]) for key in ("label", "other_label")}


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("name", LABELLED)
def test_labels_of_any_integer_type(name, dtype):
    x = drawn(0)
    assert CASES[name].loss(with_labels(x, lambda y: y.to(dtype))) == CASES[name].loss(x) == labelled(name, x)


@pytest.mark.parametrize("stray", [-1, C, 254, 256, 2**40])
@pytest.mark.parametrize("name", LABELLED)
def test_a_stray_id_is_named(name, stray):
    for key in ("label", "other_label") if name.startswith("bidirectional") else ("label",):
        x = drawn(0)
        x[key][1, 2, 3] = stray
        with pytest.raises(ValueError, match=f"Got label {stray}, wanted train ids 0 to {C - 1}, or 255 .*raw ids"):
            CASES[name].loss(x)


@pytest.mark.parametrize("name", LABELLED)
def test_labels_that_are_no_integers_are_named(name):
    with pytest.raises(ValueError, match="labels of torch.float32, wanted whole train ids"):
        CASES[name].loss(with_labels(drawn(0), Tensor.float))


def test_on_a_device_ids_are_not_looked_at():
    """"meta" stands for the device: its ids have no values, and asking for one raises (tests/engine/test_no_waiting.py)."""
    ids = train_ids(torch.empty(2, 3, dtype=torch.uint8, device="meta"), 1)
    assert ids.device.type == "meta" and ids.dtype == torch.int64


@pytest.mark.parametrize("ignore_index", [-1, -100, 0, 2, 300])
@pytest.mark.parametrize("name", LABELLED)
def test_another_id_is_ignored(name, ignore_index):
    """A class of its own number, too; 255 is then an id like others."""
    x = drawn(0)
    x = with_labels(x, lambda y: torch.where(y == ignore_index, 255, y))
    other = with_labels(x, lambda y: torch.where(y == 255, ignore_index, y))
    assert torch.equal(labelled(name, other, ignore_index), labelled(name, x))
    with pytest.raises(ValueError, match=f"Got label 255, wanted train ids 0 to 4, or {ignore_index} for"):
        labelled(name, x, ignore_index)


def test_classes_beyond_255_are_classes_once_255_is_not_ignored():
    logits, label = torch.zeros(1, 300, 1, 2), torch.tensor([[[255, 299]]])
    logits[0, 255, 0, 0] = 100
    assert cross_entropy(logits, label, ignore_index=-1, reduction="none")[0, 0, 0] == 0
    close(cross_entropy(logits, label, ignore_index=-1), math.log(300) / 2, bound(320, torch.float32, math.log(300)))
    close(cross_entropy(logits, label), math.log(300), bound(320, torch.float32, math.log(300)))


def test_prototypes_take_labels_as_the_losses_do():
    x = drawn(0)
    wanted = ClassSums(C, D).add(x["features"], x["label"])
    for dtype in INTEGERS:
        found = ClassSums(C, D).add(x["features"], x["label"].to(dtype))
        assert torch.equal(found.sums, wanted.sums) and torch.equal(found.counts, wanted.counts)
    other = torch.where(x["label"] == 255, -7, x["label"])
    bank, same = PrototypeBank(C, D), PrototypeBank(C, D)
    bank.update(x["features"], other, "source", ignore_index=-7)
    same.update(x["features"], x["label"], "source")
    assert torch.equal(bank.prototypes, same.prototypes)
    without = torch.where(x["label"] == 255, 0, x["label"])
    assert ClassSums(C, D).add(x["features"], without, ignore_index=0).counts.tolist() == [0, *wanted.counts[1:].tolist()]
    for stray in (-7, C):
        with pytest.raises(ValueError, match=f"Got label {stray}, wanted train ids 0 to 4, or 255"):
            ClassSums(C, D).add(x["features"], torch.where(x["label"] == 255, stray, x["label"]))


# ---- no pictures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_no_pictures_cost_0(name):
    x = drawn(0)
    maps = ("logits", "label", "score", "features", "other", "other_label", "depth", "true_depth")
    x |= {key: x[key][:0] for key in (*maps, "a", "b")}
    for part in computed(name, x):
        assert part.dtype == torch.float32 and not part.any()  # NaN is any


def test_no_pictures_cost_0_at_the_labels_size_and_with_a_bank():
    label = torch.zeros(0, 9, 11, dtype=torch.uint8)
    for loss in (cross_entropy, lovasz_softmax):
        assert loss(torch.zeros(0, 5, 3, 4, requires_grad=True), label) == 0
    bank, empty = MemoryBank(4, 3), torch.zeros(0, 3, requires_grad=True)
    before = bank.bank.clone()
    assert bank(empty, empty) == 0 and torch.equal(bank.bank, before) and bank.pointer == 0
    assert nt_xent(empty, empty, gather=True) == 0


# ---- a number for each pixel ----------------------------------------------------------------------------------------


def maps(x: Inputs, weight: Tensor | None) -> dict[str, Tensor]:
    """Every loss of labels that can give a map, and what its mean is."""
    return {
        "cross_entropy": lambda how: cross_entropy(x["logits"], x["label"], weight, reduction=how),
        "dot": lambda how: prototype_contrast(x["features"], x["label"], x["prototypes"], 1.0, weight=weight, reduction=how),
        "cosine": lambda how: prototype_contrast(x["features"], x["label"], x["prototypes"], 0.1, "cosine", weight=weight,
                                                 reduction=how),
        "seen": lambda how: prototype_contrast(x["features"], x["label"], x["prototypes"], 0.1, weight=weight, reduction=how,
                                               seen=torch.arange(C) > -1),
    }  # fmt: skip


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["cross_entropy", "dot", "cosine", "seen"])
def test_the_mean_is_that_of_the_map(name, weighted):
    x = cast(drawn(0), torch.float64)
    loss = maps(x, x["weight"] if weighted else None)[name]
    each, known = loss("none"), x["label"] != 255
    assert each.shape == x["label"].shape and not each[~known].any() and (each[known] > 0).all()
    shares = x["weight"][x["label"].clamp(max=C - 1)] * known if weighted else known
    close(loss("mean"), (each.sum() / shares.sum()).item(), bound(60, torch.float64, 60.0))


def test_a_map_of_vectors_and_of_entropies():
    x = cast(drawn(0), torch.float64)
    flat = x["features"].movedim(1, -1).flatten(0, 2)
    each = prototype_contrast(flat, x["label"].flatten(), x["prototypes"], 1.0, reduction="none")
    wanted = prototype_contrast(x["features"], x["label"], x["prototypes"], 1.0, reduction="none")
    close(each, wanted.flatten(), bound(30, torch.float64, 60.0))
    for double in (False, True):
        H = entropy(x["logits"], double, reduction="none")
        assert H.shape == x["label"].shape and entropy(x["logits"], double) == H.mean()
        each = [entropy(x["logits"][:1, :, :1, k : k + 1], double).item() for k in range(4)]
        assert near(H[0, 0], each, bound(20, torch.float64, 2.0))


def test_class_weights_of_prototypes_are_those_of_cross_entropy():
    x = cast(drawn(0), torch.float64)
    logits = torch.einsum("ndhw,cd->nchw", x["features"], x["prototypes"]) / 0.5
    features = x["features"].clone().requires_grad_()
    found = prototype_contrast(features, x["label"], x["prototypes"], 0.5, weight=x["weight"])
    wanted = cross_entropy(logits, x["label"], x["weight"])
    close(found, wanted.item(), bound(60, torch.float64, 60.0))
    assert torch.autograd.gradcheck(
        lambda f: prototype_contrast(f, x["label"], x["prototypes"], 0.5, weight=x["weight"]), features, fast_mode=True
    )
    nothing = prototype_contrast(features, x["label"], x["prototypes"], 0.5, weight=torch.zeros(C))
    assert nothing == 0 and cross_entropy(logits, x["label"], torch.zeros(C)) == 0


def test_wrong_reductions_and_weights_are_named():
    x = drawn(0)
    for loss in maps(x, None).values():
        with pytest.raises(ValueError, match="reduction is 'sum'; choose 'mean' .* or 'none'"):
            loss("sum")
    for weight, words in ((torch.ones(C + 1), r"weight is \(6,\).*\(5,\)"), (x["weight"].requires_grad_(), r"weight\.detach")):
        for loss in maps(x, weight).values():
            with pytest.raises(ValueError, match=words):
                loss("mean")
    with pytest.raises(ValueError, match="reduction is 'sum'"):
        entropy(x["logits"], reduction="sum")
    for more in ({"weight": torch.ones(C)}, {"reduction": "none"}):
        with pytest.raises(ValueError, match="balanced=True is a mean .* neither weight nor reduction='none'"):
            prototype_contrast(x["features"], x["label"], x["prototypes"], 1.0, balanced=True, **more)
