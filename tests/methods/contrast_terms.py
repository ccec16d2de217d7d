"""The contrastive terms, each in a step of DACS, for the tests that all of them share: `CASES`, `build`, `run`; and the table
term x property, printed by

    python -m tests.methods.contrast_terms
"""

import copy
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.data import Batch
from course_lib.losses.inputs import full_precision
from course_lib.losses.region_contrast import Regions, draw_regions
from course_lib.methods import DACS, DACSSettings, OptimiserSettings
from course_lib.methods.step import Step, Taught
from course_lib.methods.terms import TERMS, Term
from course_lib.networks import HRDA, Prediction, Segmenter
from course_lib.networks import build as build_network
from course_lib.networks.heads import ScaleAttention
from course_lib.networks.prediction import Box
from course_lib.networks.projector import GridProjector
from course_lib.pseudo_labels.weights import LabelWeightSettings
from tests.processes import own_part

C, H, W, STRIDE = 5, 64, 128, 4
D = 16  # numbers of a planted feature
BLOCK = 16  # pixels of one class, in both directions
MARKED = C  # the code of pixels that do not count
ALL_SURE = LabelWeightSettings("threshold", threshold=0.0)
SURE = LabelWeightSettings("threshold", threshold=0.968)


class Case(NamedTuple):
    """A term with settings for tiny pictures."""

    term: str
    settings: dict[str, Any] = {}
    warm: int = 0  # steps before the one that is looked at: memories have to be filled
    network: str = "small"
    nothing_drawn: dict[str, Any] = {}  # settings with which no random number of the term depends on a picture's place
    swapped: str = "swapped"  # the mode of `Planted` in which labels and features fit worst
    sharp: dict[str, Any] = {}  # settings with which the loss of perfect features is nearly 0
    follow: Callable[[Any, list[int]], None] | None = None  # makes what is drawn follow the pictures in an order (monkeypatch)


PLAIN = {"target_photometric": "none", "target_blur": 0.0}
PATCHES = {"first_step": 0, "pool": 1, "embedding": D, "least_confidence": 0.0, "patch_photometric": "none", "patch_blur": 0.0}
STATISTICS = PLAIN | {"loss_from": 0, "projector_hidden": D, "projector_out": D, "bank_length": 8}
SHARP = {"regulariser": 0.0}
PIXELS = {"least": 10, "out": D, "per_class": 50}
# every cell is a query: perfect features are surer than 0.97
REGIONS = {"contrast_temperature": 0.1, "queries": 64, "negatives": 64, "strong_threshold": 1.0, "hidden": D, "out": D}
MEMORY = {"first_step": 0, "loss_from": 0, "length": 40, "labelled": 8, "least_confidence": 0.0, "memory_hidden": D,
          "memory_out": D, "selector_hidden": 8}  # fmt: skip


def same_regions(monkeypatch: Any, order: list[int]) -> None:
    """Region contrast draws the cells that it would draw were the pictures, given in this order, in their first one."""

    def drawn(y: Tensor, hard: Tensor, *rest: Any) -> Regions:
        cells = torch.arange(len(y)).view(len(order), -1)[order].flatten()
        at = cells.argsort()
        found = draw_regions(y[at], hard[at], *rest)
        return found._replace(query=at[found.query], cell=at[found.cell])

    monkeypatch.setattr(import_module("course_lib.losses.region_contrast"), "draw_regions", drawn)


EACH = {  # each term on one network; `CASES` has them on both
    "pixel": Case("pixel_contrast", PIXELS, nothing_drawn={"anchors": 10**5, "per_class": 10**5}, swapped="shuffled"),
    "patch": Case("patch_contrast", PATCHES | {"queue_cells": 200}, 2, "small", {"queue_cells": 3000}, "half swapped"),
    "distribution": Case("distribution_contrast", STATISTICS | {"kind": "distribution"}, sharp=SHARP),
    "distribution, means": Case("distribution_contrast", STATISTICS | {"kind": "prototype"}, sharp=SHARP),
    "distribution, bank": Case("distribution_contrast", STATISTICS | {"kind": "bank"}, 1, sharp=SHARP),
    "region": Case("region_contrast", REGIONS, swapped="shuffled", follow=same_regions),
    "prototype": Case("prototype_contrast", PLAIN),
    "prototype, own": Case("prototype_contrast", PLAIN | {"prototypes": "student", "rule": "ema"}, 1),
    "bidirectional": Case("prototype_contrast", PLAIN | {"kind": "bidirectional"}),
    "memory": Case("memory_contrast", MEMORY, 1, swapped="opposite"),
    "memory, as released": Case(
        "memory_contrast", MEMORY | {"kept": "lowest", "memory_weights": "released"}, 1, swapped="opposite"
    ),
    "resolution": Case(
        "resolution_contrast", {"grid": 16, "omega_width": 8}, 0, "hrda", {}, "shuffled", {"contrast_temperature": 0.1}
    ),
}
CASES = EACH | {f"{name}, hrda": case._replace(network="hrda") for name, case in EACH.items() if case.network != "hrda"}


# ---- networks -------------------------------------------------------------------------------------------------------


class Planted(Segmenter):
    """A network whose features are known: it reads the class of each cell from the picture's colour (`COLOURS`).

    mode "perfect": the unit vector of the class; "near": perfect with a little noise; "noise": random numbers, others in each
    call and picture; "swapped": the vector of the next class; "shuffled": that of any class, block by block (class plus
    brightness); "half swapped": that of the next class in about half of the blocks, in the first half of a batch other ones
    than in the second; "opposite": the vector turned round, for losses to which another class is as far as noise.
    Features, the map of the pyramid and what the logits are made of are one tensor, kept in `emitted` with the code of its
    cells. No two cells have logits of one length: a network is nowhere equally sure.
    """

    num_classes, feature_dim, normalisation, pyramid_channels = C, D, "imagenet", (D,)

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(D))
        self.classifier = nn.Conv2d(D, C, 1, bias=False)
        with torch.no_grad():
            self.classifier.weight.copy_(10 * torch.eye(C, D)[:, :, None, None])
        self.mode, self.calls = "perfect", 0
        self.emitted: list[tuple[Tensor, Tensor]] = []

    def backbone_parameters(self) -> Iterator[nn.Parameter]:
        yield self.scale

    def head_parameters(self) -> Iterator[nn.Parameter]:
        return self.classifier.parameters()

    def forward(self, image: Tensor) -> Prediction:
        code, level = decoded(image)
        features = self.planted(code, level) * self.scale[:, None, None]
        if features.requires_grad:
            features.retain_grad()
        self.emitted.append((features, code))
        sure = 1 + 0.1 * torch.rand(code.shape, generator=torch.Generator().manual_seed(self.calls))
        return Prediction(features, self.classifier(features) * sure[:, None], pyramid=(features,))

    def planted(self, code: Tensor, level: Tensor) -> Tensor:
        self.calls += 1
        numbers = torch.Generator().manual_seed(self.calls)
        noise = torch.randn(len(code), D, *code.shape[1:], generator=numbers)
        if self.mode == "noise":
            return noise
        first = torch.arange(len(code)) < len(code) / 2
        by = {"swapped": 1, "shuffled": level, "half swapped": level % 2 ^ first[:, None, None].long()}.get(self.mode, 0)
        code = torch.where(code < C, (code + by) % C, code)
        sign = -1 if self.mode == "opposite" else 1
        return sign * torch.eye(D)[code].movedim(3, 1) + 0.2 * noise * (self.mode == "near")


COLOURS = 2 * torch.cat([torch.eye(3), -torch.eye(3)])  # of the classes, and of MARKED: (C + 1, 3)


def decoded(image: Tensor) -> tuple[Tensor, Tensor]:
    """The code of each cell and its brightness, 0 to 4: pictures (N, 3, H, W) -> (N, H/4, W/4) twice."""
    length, code = torch.einsum("nchw,kc->nkhw", F.avg_pool2d(image, STRIDE), COLOURS / 2).max(1)
    return code, (length - 2).round().long().clamp(0, C - 1)


class Unit(nn.Module):
    """A projector that changes nothing but the length."""

    def forward(self, maps: Any) -> Tensor:
        return F.normalize(full_precision(maps[0] if isinstance(maps, tuple) else maps), dim=1)


class Omega(nn.Module):
    """An attention between resolutions, from the first number of a feature."""

    def forward(self, pyramid: tuple[Tensor, ...]) -> Tensor:
        return full_precision(pyramid[0][:, :1]).sigmoid()


def planted(m: DACS) -> DACS:
    """Projectors of the term, and of its teacher, change nothing."""
    for parent in list(m.terms.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, GridProjector) or name == "project":
                setattr(parent, name, Unit())
            elif isinstance(child, ScaleAttention):
                setattr(parent, name, Omega())
    return m


def in_half_precision(m: DACS, wide: bool) -> None:
    """Student and teacher say numbers of bfloat16, computed in float32; wide: as float32."""
    for network in (m.segmenter, m.teacher.module):

        def forward(image: Tensor, whole: Callable = network.forward) -> Prediction:
            with torch.autocast(image.device.type, enabled=False):
                P = whole(image.float())
            return changed(P, lambda x: x.bfloat16().float() if wide else x.bfloat16())

        network.forward = forward


def inner(network: nn.Module) -> nn.Module:
    return getattr(network, "segmenter", network)


def network_of(case: Case, plant: bool) -> nn.Module:
    torch.manual_seed(0)
    made = Planted() if plant else build_network("small", C, seed=0, width=16)
    if not plant:
        with torch.no_grad():  # no class is ahead on average, so that all are predicted somewhere
            made.classifier.bias.zero_()
            made.classifier.weight.sub_(made.classifier.weight.mean(1, keepdim=True)).mul_(10)
    if case.network == "hrda":
        made = HRDA(made, attention_width=8, attention_bn="sync")
        made.attention.dropout.p = 0.0  # its random numbers depend on the batch's size; so below
    return made


def build(name: str, plant: bool = False, labels: LabelWeightSettings = ALL_SURE, **settings: Any) -> DACS:
    """DACS with the term alone."""
    case = CASES[name]
    network = network_of(case, plant)
    torch.manual_seed(1)
    kind = TERMS[case.term]
    term = kind(network, kind.Settings(**case.settings | settings))
    for module in term.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    optimiser = OptimiserSettings(lr=0.01, head_factor=1.0, momentum=0.0, weight_decay=0.0)
    chosen = DACSSettings(mixed_photometric="none", mixed_blur=0.0, labels=labels)
    m = DACS(network, chosen, optimiser, terms={case.term: term}).train()
    return planted(m) if plant else m


def term_of(m: DACS) -> Term:
    (term,) = m.terms.values()
    return term


def fixed_windows(monkeypatch: Any) -> None:
    """HRDA sees one window in all passes, wherever it would be drawn."""
    monkeypatch.setattr(HRDA, "_drawn", lambda self, image: Box(0, 32, image.shape[2] // 2, image.shape[3] // 2))


# ---- pictures and steps ---------------------------------------------------------------------------------------------


def pictures(seed: int, n: int = 2, marked: bool = False, noise: float = 0.05) -> dict[str, Batch]:
    """Source and target pictures in blocks of one class, whose colours are those of the classes, of any brightness. marked: a
    quarter of each does not count, and its pixels have the colour MARKED; left in the source (label 255), right in the target
    (not valid)."""
    found = {}
    for k, name in enumerate(("source", "target")):
        numbers = torch.Generator().manual_seed(10 * seed + k)
        code = torch.randint(0, C, (n, H // BLOCK, W // BLOCK), generator=numbers)
        code = code.repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2)
        if marked:
            code[:, :, : W // 4] = MARKED if name == "source" else code[:, :, : W // 4]
            code[:, :, -W // 4 :] = MARKED if name == "target" else code[:, :, -W // 4 :]
        level = torch.randint(0, C, (n, H // BLOCK, W // BLOCK), generator=numbers)
        level = level.repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2)
        image = COLOURS[code].movedim(3, 1) * (1 + level[:, None] / 2) + noise * torch.randn(n, 3, H, W, generator=numbers)
        label = torch.where(code == MARKED, 255, code) if name == "source" else torch.full_like(code, 255)
        valid = code != MARKED if name == "target" else None
        found[name] = Batch(image.contiguous(), label, [f"{name}-{seed}-{i}.png" for i in range(n)], None, valid)
    return found


def run(m: DACS, number: int, batches: dict[str, Batch]) -> dict[str, Tensor]:
    """The term's losses in one step, from all of its backward passes."""
    for part in (m, m.terms):
        part.begin_step(number, 100)
    found = {}
    for losses in m.losses(**batches):
        found |= {name.partition(".")[2]: loss for name, loss in losses.items() if "." in name}
    return found


def warmed(m: DACS, name: str, mode: str = "perfect", **how: Any) -> DACS:
    """After the steps that fill its memories, with the student's features as planted; then in `mode`."""
    for number in range(CASES[name].warm):
        with torch.no_grad():
            run(m, number, pictures(100 + number, **how))
        m.terms.after_step(number)
    if isinstance(inner(m.segmenter), Planted):
        inner(m.segmenter).mode = mode
        inner(m.segmenter).emitted.clear()
    return m


def measured(name: str, mode: str, batches: dict[str, Batch] | None = None, **settings: Any) -> dict[str, Tensor]:
    """The losses on planted features, after perfect ones."""
    m = warmed(build(name, plant=True, labels=SURE, **settings), name, mode)
    return run(m, CASES[name].warm, batches or pictures(1))


# ---- one call of a term again, with something changed ---------------------------------------------------------------


class Call(NamedTuple):
    """What a term was called with, and its state before."""

    P: dict[str, Prediction]
    step: Step
    state: dict[str, Tensor]
    numbers: tuple[Tensor, Tensor | None]  # the states of its generators


def calls_of(m: DACS, number: int, batches: dict[str, Batch]) -> list[Call]:
    """The calls of the term in one step."""
    term, found = term_of(m), []

    def keep(module: nn.Module, inputs: tuple) -> None:
        P, step = inputs
        numbers = step.numbers.get_state(), step.taught and step.taught.numbers.get_state()
        found.append(Call(dict(P), step, copy.deepcopy(term.state_dict()), numbers))

    hook = term.register_forward_pre_hook(keep)
    run(m, number, batches)
    hook.remove()
    return found


def again(m: DACS, call: Call, change: Callable[[Any], Any] = lambda x: x) -> dict[str, Tensor]:
    """The term's losses for the same call, with all tensors of a batch changed."""
    term_of(m).load_state_dict(call.state)
    numbers = [None if state is None else torch.Generator() for state in call.numbers]
    for generator, state in zip(numbers, call.numbers):
        if generator is not None:
            generator.set_state(state)
    step = replace(
        call.step,
        batches={name: change(batch) for name, batch in call.step.batches.items()},
        taught=call.step.taught and change(call.step.taught._replace(numbers=numbers[1])),
        numbers=numbers[0],
    )
    return term_of(m)({name: change(P) for name, P in call.P.items()}, step)


def changed(x: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Tuples of tensors, such as batches and predictions, with each tensor changed."""
    if isinstance(x, Tensor):
        return change(x)
    if isinstance(x, tuple):
        parts = [changed(part, change) for part in x]
        return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
    return x


def in_order(x: Any, order: list[int]) -> Any:
    """Batches, predictions and what a teacher says, with their pictures in another order."""
    found = changed(x, lambda maps: maps[order])
    return found._replace(name=[x.name[k] for k in order]) if isinstance(x, Batch) else found


def shifted(x: Any, down: int, right: int) -> Any:
    """Labels and weights of batches, and what a teacher says, moved by pixels; pictures and features as they are."""

    def moved(maps: Tensor, cells: int = 1) -> Tensor:
        return maps.roll((down // cells, right // cells), (-2, -1))

    if isinstance(x, Batch):
        return x._replace(label=moved(x.label))
    if isinstance(x, Taught):
        P = x.prediction._replace(logits=moved(x.prediction.logits, H // x.prediction.logits.shape[2]))
        more = {name: moved(getattr(x, name)) for name in ("mixed_weight", "mixed_sure") if getattr(x, name, None) is not None}
        return x._replace(label=moved(x.label), weight=moved(x.weight), prediction=P, **more)
    return x


def part_of(batches: dict[str, Batch]) -> dict[str, Batch]:
    """This process's pictures."""
    return {name: own_part(batch) for name, batch in batches.items()}


# ---- the table ------------------------------------------------------------------------------------------------------


class _Outcomes:
    """A plugin of pytest: the outcome of each test by name and case."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], str] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        name, _, case = report.nodeid.rpartition("::")[2].rstrip("]").partition("[")
        if report.when == "call" or report.outcome != "passed":  # the setup of one that is skipped, or fails there
            self.found[name, case.removeprefix("dacs, ")] = report.outcome


def table() -> str:
    """Term x property in Markdown, from a run of the tests (about two minutes).

    "yes": on one network, or on both; "NO": fails on one of them, which is named; "-": was not run.
    """
    import pytest

    outcomes, waits = _Outcomes(), "tests/engine/test_no_waiting.py::test_a_step_asks_the_device_nothing"
    pytest.main(["-q", "-p", "no:xdist", "tests/methods/test_contrast_terms.py", *(f"{waits}[dacs, {name}]" for name in EACH)],
                plugins=[outcomes])  # fmt: skip
    properties = list(dict.fromkeys(name for name, case in outcomes.found if case in CASES))
    lines = [f"| property | {' | '.join(EACH)} |", f"|---|{'---|' * len(EACH)}"]
    for name in properties:
        cells = []
        for case in EACH:
            found = {each: outcomes.found[name, each] for each in (case, f"{case}, hrda") if (name, each) in outcomes.found}
            wrong = [each for each, outcome in found.items() if outcome != "passed"]
            cells.append(f"NO: {' and '.join(wrong)}" if wrong else "yes" if found else "-")
        lines.append(f"| {name.removeprefix('test_').replace('_', ' ')} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
