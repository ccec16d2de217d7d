"""Patch contrast in a step of a mean teacher: the places that are compared, windows, gradients, queue, state, processes."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from course_lib.data import Batch
from course_lib.engine import LoopSettings, train
from course_lib.experiments.compute import training_cost
from course_lib.losses.inputs import IGNORE
from course_lib.losses.patch_contrast import patch_contrast
from course_lib.methods import DACS, DACSSettings, OptimiserSettings
from course_lib.methods.step import Step, Taught
from course_lib.methods.terms import patch_contrast as module
from course_lib.methods.terms.patch_contrast import PatchContrast, PatchContrastSettings, shared, stride_of, two_windows
from course_lib.networks import HRDA, Prediction, Segmenter, small
from course_lib.networks.prediction import Box
from course_lib.pseudo_labels.weights import LabelWeightSettings
from course_lib.recipes import recipe
from course_lib.teacher import EMA
from tests.bounds import bound, close, far, roundings, stated
from tests.engine.test_no_waiting import Waits, stand_in, steps_of  # noqa: F401
from tests.processes import own_part, together

C, H, W = 5, 64, 128
PLAIN = DACSSettings(mixed_photometric="none", mixed_blur=0.0, labels=LabelWeightSettings("threshold", threshold=0.0))
NOW = PatchContrastSettings(
    first_step=0, window_share=0.5, patch_photometric="none", patch_blur=0.0, least_confidence=0.0, hidden=16, embedding=8,
    queue_cells=40,
)  # fmt: skip


def batch(seed: int, n: int = 2, size: tuple[int, int] = (H, W)) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, C, (n, size[0] // 16, size[1] // 16), generator=generator)
    label = blocks.repeat_interleave(16, 1).repeat_interleave(16, 2)
    return Batch(torch.randn(n, 3, *size, generator=generator), label, [f"{seed}_{i}.png" for i in range(n)])


def method(settings: PatchContrastSettings | None = NOW, network: nn.Module | None = None, dacs: DACSSettings = PLAIN) -> DACS:
    torch.manual_seed(0)
    segmenter = network or small(C, width=8)
    terms = {} if settings is None else {"patch_contrast": PatchContrast(segmenter, settings)}
    optimiser = OptimiserSettings(lr=0.01, head_factor=1.0, momentum=0.0, weight_decay=0.0)
    return DACS(segmenter, dacs, optimiser, terms=terms).train()


def step(m: DACS, number: int = 3, source: Batch | None = None, target: Batch | None = None) -> dict[str, torch.Tensor]:
    found = {}
    for part in (m, m.terms):
        part.begin_step(number, 10)
    for losses in m.losses(source=source or batch(1), target=target or batch(2)):
        found |= losses
    return found


def loss_of(m: DACS, number: int = 3, **batches: Batch) -> torch.Tensor:
    return step(m, number, **batches)["patch_contrast.patches"]


# ---- the places that are compared -----------------------------------------------------------------------------------


class Coordinates(Segmenter):
    """Features are the mean picture of S x S pixels: what is planted there comes out, where it lies. `more`: the pixels 0, S,
    2 S, ... up to the other edge, one more than cells, as DeepLab has them."""

    normalisation, num_classes, feature_dim, pyramid_channels = "imagenet", C, 3, (3,)

    def __init__(self, stride: int, more: bool = False) -> None:
        super().__init__()
        self.stride, self.more = stride, more
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, image):
        S = self.stride
        ends = nn.functional.pad(image, (0, 1, 0, 1), mode="replicate")[..., ::S, ::S]
        x = self.scale * (ends if self.more else nn.functional.avg_pool2d(image, S))
        logits = nn.functional.pad(x, (0, 0, 0, 0, 0, C - 3))
        return Prediction(x, logits, pyramid=(x,), align_corners=False)


NETWORKS = {
    "stride 4": lambda: Coordinates(4),
    "stride 8": lambda: Coordinates(8),
    "stride 8, rounded up": lambda: Coordinates(8, more=True),
    "hrda": lambda: HRDA(Coordinates(4), 8),
    "hrda, rounded up": lambda: HRDA(Coordinates(4, more=True), 8),
}
SIZE = (96, 192)


def planted(n: int = 2) -> torch.Tensor:
    """Pictures of row, column and the number of the picture, from 1 on, over 100."""
    rows, columns = (torch.arange(side) + 0.5 for side in SIZE)
    maps = [rows[:, None].expand(*SIZE), columns.expand(*SIZE)]
    return torch.stack([torch.stack([*maps, torch.full(SIZE, 100.0 * (k + 1))]) for k in range(n)]) / 100


def label_at(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Squares of 32 pixels."""
    return (rows.long() // 32 + 2 * (columns.long() // 32)) % C


def taught_of(network: nn.Module, image: torch.Tensor) -> Taught:
    """A teacher with the same network, and labels that depend on the place."""
    teacher = EMA(network).train()
    rows, columns = torch.meshgrid(*(torch.arange(side) for side in image.shape[2:]), indexing="ij")
    label = label_at(rows, columns).expand(len(image), *image.shape[2:])
    P = teacher(image)
    known = {"image": image, "label": label, "weight": torch.ones(label.shape), "prediction": P, "teacher": teacher}
    return Taught(**dict.fromkeys(Taught._fields) | known)


def compared(monkeypatch, network: nn.Module, number: int, **settings) -> list[tuple]:
    """The arguments of the loss, both times, in a call on the planted pictures; the projector gives what it got."""
    term = PatchContrast(network, replace(NOW, embedding=3, **settings))
    term.project = nn.Identity()
    monkeypatch.setattr(torch.nn.functional, "normalize", lambda x, dim: x)
    calls = []
    monkeypatch.setattr(module, "patch_contrast", lambda *arguments: calls.append(arguments) or arguments[0].sum())
    numbers = torch.Generator().manual_seed(number)
    term({}, Step(0, {}, taught_of(network, planted()), numbers))
    return calls


CENTRES = bound(70, torch.float32, 2.0)  # the mean of 16 x 16 pixels, then of 2 x 2
FLIPPED = {"stride 8, rounded up": 1.0, "hrda, rounded up": 2.0}  # pixels: 0, 8, ... from one edge are 7, ... from the other


@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_both_views_of_a_pair_show_the_same_place_with_its_label(name, pool, monkeypatch):
    cell, seen = (4 if name == "stride 4" else 8) * pool, set()
    for number in range(12):
        network = NETWORKS[name]().train()
        (u, v, Q, y, y_Q, *_), (v_2, u_2, _, y_2, *_) = compared(monkeypatch, network, number, pool=pool)
        assert torch.equal(u, u_2) and torch.equal(v, v_2) and torch.equal(y, y_2)
        close(u, v, CENTRES + stated(FLIPPED.get(name, 0.0) / 100, "a flip moves the pixels that are read"))
        pictures = [1] * (len(u) // 2) + [2] * (len(u) // 2)
        assert u[:, 2].round().tolist() == pictures, "picture by picture"
        places, filled = 100 * u[:, :2].detach(), y_Q != IGNORE
        seen.add((len(u), tuple(places[0].round().tolist())))
        assert filled.sum() == 2 * 2 * min(20, math.prod(side // 2 // cell for side in SIZE))
        if name not in FLIPPED:
            close(places / cell - 0.5, (places / cell - 0.5).round(), CENTRES * (100 / cell))  # the middles of cells
            assert torch.equal(y, label_at(*places.T)), "labels move along"
            assert torch.equal(y_Q[filled], label_at(*(100 * Q[filled, :2]).T)), "and in the queue"
    assert len(seen) > 6, "other windows"


def test_a_box_over_8_on_another_grid_shows_other_places():
    """The release with HRDA: maps at half of the picture's size, the box divided by 8."""
    x, b = planted(1), 8
    W_1, W_2 = Box(0, 0, 64, 64), Box(16, 32, 64, 64)
    B = shared(W_1, W_2)
    places = {}
    for stride in (8, 2):
        maps = [nn.functional.avg_pool2d(W_k.of(x), stride) for W_k in (W_1, W_2)]
        parts = [Box((B.top - W_k.top) // b, (B.left - W_k.left) // b, B.height // b, B.width // b) for W_k in (W_1, W_2)]
        places[stride] = [100 * part.of(maps_k)[0, :2, 0, 0] for part, maps_k in zip(parts, maps)]
    assert torch.equal(*(place.round() for place in places[8]))
    assert far(*places[2], 10), "pixels"


def test_confidences_are_the_students_of_each_view_and_embeddings_have_length_1(monkeypatch):
    calls, kept = [], []
    monkeypatch.setattr(module, "patch_contrast", lambda *given: calls.append(given) or patch_contrast(*given))
    m = method(replace(NOW, window_share=1.0, flip_share=0.0, patch_photometric="jitter"))
    m.segmenter.register_forward_hook(lambda network, inputs, P: kept.append((inputs[0], P)))
    found = loss_of(m)
    (u, v, Q, y, y_Q, c_u, c_v, *_), mirrored = calls
    assert all(torch.equal(a, b) for a, b in zip((v, u, Q, y, y_Q, c_v, c_u), mirrored))
    assert torch.equal(found, patch_contrast(*calls[0]) + patch_contrast(*mirrored)) and found > 0
    x, P = kept[-1]
    assert x.shape == (4, 3, H, W) and far(x[:2], x[2:], 0.1), "two draws of colours"
    wanted = P.logits.softmax(1).amax(1).unfold(1, 2, 2).unfold(2, 2, 2).mean((3, 4))
    close(torch.cat([c_u, c_v]), wanted.flatten(), bound(10, torch.float32))
    assert not c_u.requires_grad and (c_u != c_v).all()
    for rows in (u, v):
        close(rows.norm(dim=1), torch.ones(len(u)), bound(20, torch.float32))


def test_a_cell_has_the_label_of_its_middle_pixel_and_none_without_weight():
    y = torch.arange(7 * 9).view(1, 7, 9)
    assert module.cell_labels(y, torch.ones(1, 7, 9), 4).tolist() == [[[2 * 9 + 2, 2 * 9 + 6]]]
    assert module.cell_labels(y, torch.ones(1, 7, 9), 1).tolist() == y.tolist()
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "patch_contrast", lambda *given: calls.append(given) or given[0].sum())
        network = Coordinates(4).train()
        term = PatchContrast(network, replace(NOW, window_share=1.0))
        taught = taught_of(network, planted())
        taught.weight[:, :, : SIZE[1] // 2] = 0
        term({}, Step(0, {}, taught, torch.Generator()))
    y, y_Q = calls[0][3].view(2, SIZE[0] // 8, SIZE[1] // 8), calls[0][4]
    assert (y[:, :, : SIZE[1] // 16] == IGNORE).all() and (y[:, :, SIZE[1] // 16 :] != IGNORE).all()
    assert 20 < (y_Q[:80] == IGNORE).sum() < 60


# ---- windows --------------------------------------------------------------------------------------------------------


def test_windows_are_all_pairs_that_overlap_enough():
    grid, window, least = (5, 6), (3, 4), 0.4
    numbers, pairs = torch.Generator().manual_seed(0), set()
    for _ in range(1500):
        pairs.add(two_windows(grid, window, least, numbers))
    places = [Box(i, j, *window) for i in range(3) for j in range(3)]

    def cells(box):
        return {(i, j) for i in range(box.top, box.top + box.height) for j in range(box.left, box.left + box.width)}

    enough = {(a, b) for a in places for b in places if len(cells(a) & cells(b)) >= least * len(cells(a) | cells(b))}
    assert pairs == enough and len(enough) < 81
    assert all(cells(shared(a, b)) == cells(a) & cells(b) for a in places for b in places)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("network, unit", [(lambda: small(C, width=8), 8), (lambda: HRDA(small(C, width=8), 8), 16)])
def test_sides_are_those_that_the_network_trains_on(network, unit, share):
    term = PatchContrast(network(), replace(NOW, window_share=share))
    b = 2 * stride_of((H, W), tuple(taught_of(term.segmenter, batch(1).image).prediction.features.shape[2:]))
    for size in ((H, W), (72, 104), (unit, unit)):
        W_1, W_2 = term.windows(size, b, torch.Generator())
        for box in (W_1, W_2):
            for side, length, start in zip(size, box[2:], box[:2]):
                assert length * b % unit == 0 and 0 <= start and (start + length) * b <= side
                assert abs(length * b - share * side) <= unit, "the nearest"


@pytest.mark.parametrize(
    "size, grid, stride",
    [((64, 64), (16, 16), 4), ((64, 128), (9, 17), 8), ((720, 1280), (91, 161), 8), ((360, 640), (45, 80), 8),
     ((32, 64), (5, 9), 8), ((64, 64), (64, 64), 1), ((90, 180), (11, 22), 8)],
)  # fmt: skip
def test_the_stride_is_that_of_the_grid(size, grid, stride):
    assert stride_of(size, grid) == stride


def test_what_is_compared_is_drawn_by_step_and_the_same_again():
    strong = replace(NOW, patch_photometric="weak", patch_blur=0.5)
    first, again, other = (loss_of(method(strong), number) for number in (3, 3, 4))
    assert torch.equal(first, again) and far(first, other, 1e-4)
    assert far(first, loss_of(method()), 1e-4), "colours of its own"


# ---- gradients ------------------------------------------------------------------------------------------------------


def reached(m: DACS) -> dict[str, bool]:
    """Which parameters of the segmenter and of the term the loss moves."""
    parameters = dict(m.named_parameters())
    parameters = {name: p for name, p in parameters.items() if p.requires_grad}
    gradients = torch.autograd.grad(loss_of(m), parameters.values(), allow_unused=True)
    assert all(g is None or g.isfinite().all() for g in gradients)
    return {name: g is not None and bool((g != 0).any()) for name, g in zip(parameters, gradients)}


def test_the_gradient_reaches_the_students_encoder():
    moved = reached(method())
    assert all(moved[name] for name in moved if not name.startswith("segmenter.classifier"))
    assert any(name.startswith("segmenter.stem") for name in moved) and any("project" in name for name in moved)


def test_as_released_the_teacher_reads_the_windows_and_the_student_learns_nothing():
    """The switch: only the projector moves."""
    moved = reached(method(replace(NOW, views="teacher")))
    assert moved and {name for name, some in moved.items() if some} == {name for name in moved if "project." in name}


@pytest.mark.parametrize("views", ["student", "teacher"])
def test_a_run_moves_the_encoder_as_far_as_the_views_say(views):
    def weights(settings) -> torch.Tensor:
        m = method(settings)
        streams = {"source": iter(lambda: batch(1), None), "target": iter(lambda: batch(2), None)}
        train(m, streams, LoopSettings(steps=3, warmup=0), quiet=True)
        return torch.cat([p.detach().flatten() for p in m.segmenter.stem.parameters()])

    plain, heavy = weights(None), replace(NOW, views=views, weight=10.0)
    assert torch.equal(weights(replace(heavy, weight=0.0)), plain)
    assert torch.equal(weights(heavy), plain) == (views == "teacher")


def test_it_does_not_change_what_the_method_computes():
    coloured = replace(PLAIN, mixed_photometric="jitter", mixed_blur=0.5)
    alone, both = step(method(None, dacs=coloured)), step(method(dacs=coloured))
    assert all(torch.equal(alone[name], both[name]) for name in alone)
    assert both.keys() - alone.keys() == {"patch_contrast.patches"}
    assert step(method(replace(NOW, first_step=4))).keys() == alone.keys()


def test_where_no_place_counts_the_loss_is_0():
    m = method(replace(NOW, least_confidence=1.0))
    loss = loss_of(m)
    gradients = torch.autograd.grad(loss, m.segmenter.stem.parameters())
    assert loss.item() == 0 and all((g == 0).all() for g in gradients)


# ---- queue and state ------------------------------------------------------------------------------------------------


def test_the_queue_holds_the_random_cells_of_three_steps():
    m, term = method(), None
    for number in range(5):
        loss_of(m, number)
        term = m.terms["patch_contrast"]
        features, classes = term.queue.held()
        filled = classes.view(3, 80) != IGNORE
        assert filled.sum(1).tolist() == [80 if number >= k else 0 for k in range(3)]
        close(features[classes != IGNORE].norm(dim=1), torch.ones(int(filled.sum())), bound(20, torch.float32))
    few = method(replace(NOW, queue_cells=1000))
    loss_of(few)
    assert (few.terms["patch_contrast"].queue.held()[1] != IGNORE).sum() == 2 * 2 * (H // 16) * (W // 16), "all that there are"


def part() -> dict[str, torch.Tensor]:
    """Two steps on this process's part of the batch."""
    m = method(replace(NOW, patch_photometric="weak", patch_blur=0.5))
    for number in range(2):
        loss = loss_of(m, number, source=own_part(batch(10 + number)), target=own_part(batch(20 + number)))
    weight = m.segmenter.stem[0].weight
    features, classes = m.terms["patch_contrast"].queue.held()
    (gradient,) = torch.autograd.grad(loss, weight)
    return {"loss": loss.detach(), "gradient": gradient, "features": features, "classes": classes}


def test_two_processes_equal_one(tmp_path):
    first, second = together(part, tmp_path)
    whole = part()
    rounding = bound(roundings(small(C, width=8)), torch.float32, 2 / 0.1) + bound(2000, torch.float32, 20.0)
    assert all(torch.equal(first[name], second[name]) for name in ("features", "classes")) and first["loss"] != second["loss"]
    assert torch.equal(first["classes"], whole["classes"])
    close(first["features"], whole["features"], rounding)
    close((first["loss"] + second["loss"]) / 2, whole["loss"], rounding)
    close((first["gradient"] + second["gradient"]) / 2, whole["gradient"], rounding * whole["gradient"].abs().max().item())


# ---- precision, devices, cost ---------------------------------------------------------------------------------------


def test_inside_autocast_the_loss_is_float32(monkeypatch):
    calls, m = [], method()
    monkeypatch.setattr(module, "patch_contrast", lambda *given: calls.append(given) or patch_contrast(*given))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(m)
    loss.backward()
    assert loss.dtype == torch.float32 and loss.isfinite() and loss > 0
    for u, v, Q, *_, c_u, c_v, _, _ in calls:
        assert {x.dtype for x in (u, v, Q, c_u, c_v)} == {torch.float32}
        close(u.norm(dim=1), torch.ones(len(u)), bound(20, torch.float32))


@pytest.mark.parametrize("views", ["student", "teacher"])
def test_a_step_asks_the_device_nothing(views, stand_in):  # noqa: F811
    m = method(replace(NOW, views=views, patch_photometric="weak", patch_blur=0.5, window_share=1.0))
    with Waits() as waits:
        steps_of(m, "meta", waits)
    assert waits.questions == [] and waits.uploads == []


@pytest.mark.parametrize("views", ["student", "teacher"])
def test_passes_are_the_windows_share_of_a_batch(views):
    m, seen = method(replace(NOW, views=views)), {"student": 0, "teacher": 0}
    for name, network in (("student", m.segmenter), ("teacher", m.teacher.module)):
        network.register_forward_pre_hook(
            lambda network, inputs, name=name: seen.update({name: seen[name] + inputs[0].numel() / batch(1).image.numel()})
        )
    step(m)
    own, term = m.passes(), m.terms["patch_contrast"].passes()
    assert (own.trained + term.trained, own.frozen + term.frozen) == (seen["student"], seen["teacher"])
    assert term.trained + term.frozen == 0.5


def test_the_cost_of_a_run_counts_the_windows():
    chosen = recipe("ministreet", "dacs").override(
        "network=small", "network_options={'width': 16}", "steps=10", "terms=patch_contrast"
    )
    assert training_cost(chosen) == 10 * 7
    chosen = chosen.override("terms.patch_contrast.first_step=4")
    assert training_cost(chosen) == 10 * 7 + 6 * 3 * 2 * 0.75**2


def test_it_works_on_two_resolutions():
    torch.manual_seed(0)
    network = HRDA(small(C, width=8), 8)
    m = method(replace(NOW, queue_cells=10), network)
    loss = loss_of(m)
    assert loss.isfinite() and loss > 0 and network.draws == 3, "source, mixed pictures and windows draw a detail each"
    loss.backward()
    assert network.segmenter.stem[0].weight.grad.abs().sum() > 0
    assert loss_of(method(replace(NOW, views="teacher", queue_cells=10), HRDA(small(C, width=8), 8))).isfinite()


# ---- settings -------------------------------------------------------------------------------------------------------


def test_defaults_are_the_published_ones():
    s = PatchContrastSettings()
    assert (s.weight, s.first_step, s.patch_temperature, s.least_confidence, s.least_overlap) == (0.1, 10_000, 0.1, 0.9, 0.1)
    assert (s.pool, s.hidden, s.embedding, s.patch_blur, s.flip_share) == (2, 256, 128, 0.5, 0.5)
    assert 2 * s.queue_cells * s.queue_steps == 9600 and s.views == "student"
    project = PatchContrast(small(C, width=8), s).project
    assert [tuple(x.shape) for x in project.parameters()] == [(256, 8, 1, 1), (256,), (128, 256, 1, 1), (128,)]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"views": "both"}, "views: it holds 'both', wanted one of 'student', 'teacher'"),
        ({"patch_photometric": "x"}, "patch_photometric: it holds 'x'"),
        ({"window_share": 0.0}, "window_share is 0.0; it wants a number from 0.01 to 1.0"),
        ({"window_share": math.nan}, "window_share is nan"),
        ({"least_overlap": 1.5}, "least_overlap is 1.5"),
        ({"least_confidence": -1.0}, "least_confidence is -1.0; it wants a number from 0.0 to 1.0"),
        ({"patch_temperature": 0.0}, "patch_temperature is 0.0"),
        ({"flip_share": 2.0}, "flip_share is 2.0"),
        ({"patch_blur": 2.0}, "patch_blur is 2.0"),
        *(({name: 0}, f"{name} is 0; it wants a whole number from 1") for name in
          ("pool", "hidden", "embedding", "queue_cells", "queue_steps")),
        ({"weight": -1.0}, "weight is -1.0"),
    ],
)  # fmt: skip
def test_hostile_settings_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        PatchContrastSettings(**change)


def test_errors_say_what_came_and_what_was_wanted():
    with pytest.raises(ValueError, match="sides are multiples of 128 pixels; the target pictures are 128x64.*pool"):
        loss_of(method(replace(NOW, pool=32)))
    with pytest.raises(ValueError, match="queue_cells is 1 for a batch of 2 pictures; it wants at least one cell of each"):
        loss_of(method(replace(NOW, queue_cells=1)))
    with pytest.raises(ValueError, match="37x37 cells for pictures of 512x512; it wants a network whose stride is"):
        stride_of((512, 512), (37, 37))
    with pytest.raises(ValueError, match="maps of 8x4 for a window of 3x2 cells; it wants a whole number of them"):
        module.on_cells(torch.zeros(1, 1, 4, 8), (2, 3))
