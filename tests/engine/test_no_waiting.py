"""Between two log lines a training step never makes the host wait for the device.

A GPU works through a queue; a host that asks for a value (`item`, `if tensor`, a mask as index, `unique`) waits until the queue
is empty, and the GPU then waits for the host. No GPU is needed to find such questions: here "meta" stands for the device.
Its tensors have shapes and no values, so each question has to pass `Waits`, which notes it and makes up an answer.
"""

import traceback
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from itertools import repeat
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from course_lib.data import Batch, ViewSettings
from course_lib.engine import LoopSettings, train
from course_lib.methods import (
    DACS,
    AdaptSegNet,
    AdaptSegNetSettings,
    BiDA,
    BiDASettings,
    ClassMix,
    DACSSettings,
    Depth,
    HeadSettings,
    Method,
    NormalisationControl,
    OptimiserSettings,
    ProCA,
    ProCASettings,
    ReCo,
    SegSDF,
    SegSDFSettings,
    SelfTraining,
    SelfTrainingSettings,
    SemiSeg,
    SemiSegSettings,
    SimCLR,
    SimCLRSettings,
    SourceOnly,
    TargetOnly,
)
from course_lib.mixing import MixingSettings
from course_lib.networks import build
from course_lib.pseudo_labels.weights import LabelWeightSettings
from tests.methods import contrast_terms

CLASSES, SIZE = 5, (32, 64)
LIBRARY = str(Path(__file__).resolve().parents[2] / "course_lib")

# Operations whose result, or whose result's size, is a value on the device
ASKING = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "bincount",
    "equal",
}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}


class Waits(TorchDispatchMode):
    """Notes what a host would wait for while `on`: questions to the device, and uploads from memory that is not pinned."""

    def __init__(self, device: str = "meta"):
        super().__init__()
        self.device, self.on = device, True
        self.questions: list[str] = []
        self.uploads: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        there = [x for x in args if isinstance(x, Tensor) and x.device.type == self.device]
        if name in ASKING and there:
            return self.answer(name, *args, **kwargs)
        if name in INDEXING and there and any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]):
            self.note(self.questions, f"{name} by a mask")
            args = (args[0], [part for i in args[1] for part in as_numbers(i)], *args[2:])
        result = None
        if name == "_to_copy" and there and torch.device(kwargs.get("device") or self.device).type == "cpu":
            self.note(self.questions, "a copy to the host")
            result = torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        result = func(*args, **kwargs) if result is None else result
        if isinstance(result, Tensor) and result.device.type == self.device:
            fresh = name == "lift_fresh"  # torch.tensor(numbers, device=...)
            other = name in ("_to_copy", "copy_") and any(isinstance(x, Tensor) and x.device.type == "cpu" for x in args)
            if fresh or (other and not kwargs.get("non_blocking")):
                self.note(self.uploads, name)
        return result

    def answer(self, name: str, x: Tensor, *rest, **kwargs):
        self.note(self.questions, name)
        numbers = torch.empty(x.numel(), dtype=torch.int64, device=self.device)
        if name == "_local_scalar_dense":
            return True if x.dtype == torch.bool else (1.0 if x.dtype.is_floating_point else 1)
        if name == "equal":
            return True
        if name == "nonzero":
            return torch.empty(x.numel(), x.ndim, dtype=torch.int64, device=self.device)
        if name == "bincount":
            least = kwargs.get("minlength", rest[1] if len(rest) > 1 else 0)
            return torch.empty(least, dtype=torch.int64, device=self.device)
        return x.flatten() if name == "masked_select" else (x.flatten(), numbers, numbers)

    def note(self, notes: list[str], what: str) -> None:
        if self.on:
            lines = [f for f in traceback.extract_stack() if f.filename.startswith(LIBRARY)]
            place = (
                f"{Path(lines[-1].filename).relative_to(LIBRARY)}:{lines[-1].lineno} {lines[-1].line}" if lines else "the test"
            )
            notes.append(f"{what} in {place}")


def as_numbers(index: Tensor | None) -> list[Tensor | None]:
    """A mask as the coordinates of its elements."""
    if index is None or index.dtype not in (torch.bool, torch.uint8):
        return [index]
    return [torch.empty(index.numel(), dtype=torch.int64, device=index.device) for _ in range(index.ndim)]


class Enough(Exception):
    """The steps to be looked at are done."""


def batches(device: str, waits: Waits | None, steps: int) -> Iterator[Batch]:
    """Batches on the device (a loader pins its own); from the second on, with all that is made once, `waits` is on."""
    image = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    label = torch.arange(2 * SIZE[0] * SIZE[1]).view(2, *SIZE) // 64 % CLASSES
    batch = Batch(image, label, ["a.png", "b.png"], disparity=image[:, 0]).to(device)
    for step in range(steps):
        if waits is not None:
            waits.on = step > 0
        yield batch
    if waits is not None:
        waits.on = False
    raise Enough


def methods() -> dict[str, Method]:
    """Every method of the course, in every form whose step differs."""

    def net(**options):
        return build("small", CLASSES, seed=0, width=8, **options)

    made = {
        "source-only": lambda: SourceOnly(net()),
        "target-only": lambda: TargetOnly(net()),
        "bn-control": lambda: NormalisationControl(net(norm="batch")),
        "adaptsegnet": lambda: AdaptSegNet(net(), AdaptSegNetSettings(discriminator_depth=3)),
        "adaptsegnet, multi-level": lambda: AdaptSegNet(net(aux=True), AdaptSegNetSettings("multi", discriminator_depth=3)),
        "adaptsegnet, adamw": lambda: AdaptSegNet(
            net(), AdaptSegNetSettings(discriminator_depth=3), OptimiserSettings("adamw")
        ),
        "source-only, lars": lambda: SourceOnly(net(), optimiser=OptimiserSettings("lars")),
        "proca, balanced, lovasz": lambda: ProCA(
            net(), ProCASettings(balanced=True), heads=HeadSettings(lambda_lovasz=0.75)
        ),
        "proca, mix": lambda: ProCA(net(), ProCASettings(rule="mix", score="logit")),
        "self-training": lambda: SelfTraining(net(), SelfTrainingSettings(lambda_source=1.0)),
        "bida, over the batch": lambda: BiDA(net(), BiDASettings(pairwise=False, by_class=True, dynamic_prototypes="average")),
        "bida, later": lambda: BiDA(net(), BiDASettings(dynamic_after=2)),
        "simclr": lambda: SimCLR(net(), SimCLRSettings(head_norm="layer", views=ViewSettings())),
        "simclr, chunks": lambda: SimCLR(net(), SimCLRSettings(chunk=2)),
        "simclr, bank": lambda: SimCLR(net(), SimCLRSettings(bank=16)),
    }
    for name, settings in {
        "dacs": DACSSettings(),
        "dacs, class-wise, rare first": DACSSettings(
            mixed_photometric="strong", labels=LabelWeightSettings("class"), mixing=MixingSettings(mix_rare=0.1, unmixed=0.5)
        ),
        "dacs, boxes, power": DACSSettings(labels=LabelWeightSettings("power"), mixing=MixingSettings(mix="box")),
        "dacs, picture, batch": DACSSettings(labels=LabelWeightSettings("picture"), mixing=MixingSettings(mix_scope="batch")),
    }.items():
        made[name] = lambda settings=settings: DACS(net(), settings)
    made["classmix"] = lambda: ClassMix(net())
    made["reco"] = lambda: ReCo(net())
    made["semiseg"] = lambda: SemiSeg(net(), SemiSegSettings(mix_after=0, balance_from=0))
    inside = {"of": "small", "width": 16, "decoder_width": 8, "decoder_norm": "group", "rates": [1]}
    made["segsdf"] = lambda: SegSDF(build("multitask", CLASSES, seed=0, **inside))
    made["segsdf, own weights"] = lambda: SegSDF(
        build("multitask", CLASSES, seed=0, **inside), SegSDFSettings(share_after=False, labels=LabelWeightSettings("class"))
    )
    made["depth"] = lambda: Depth(build("multitask", CLASSES, seed=0, **inside, tasks="depth"))
    for labels in ("threshold", "class-wise", "batch", "static"):
        made[f"proca, {labels}"] = lambda labels=labels: ProCA(net(), ProCASettings(target_labels=labels))
    for dynamic in ("none", "uncalibrated", "calibrated"):
        made[f"bida, {dynamic}"] = lambda dynamic=dynamic: BiDA(net(), BiDASettings(dynamic=dynamic))
    return made | {f"dacs, {name}": partial(contrast_terms.build, name) for name in contrast_terms.EACH}


@pytest.fixture
def stand_in(monkeypatch):
    """Lets "meta" pass for a device: modules move in place, and autocast, which does not know it, does nothing."""
    autocast = torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda kind, **how: nullcontext() if kind == "meta" else autocast(kind, **how))
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    yield
    torch.__future__.set_swap_module_params_on_conversion(before)


def steps_of(method: Method, device: str, waits: Waits, steps: int = 4) -> None:
    waits.on = False
    method.to(device)
    first, *others = method.streams(method.settings)
    loaders = {first: batches(device, waits, steps)} | {name: repeat(next(batches(device, None, 1))) for name in others}
    settings = LoopSettings(steps=100, log_every=100, channels_last=True)
    with pytest.raises(Enough):
        train(method, loaders, settings, device=device, quiet=True)


@pytest.mark.parametrize("name", methods())
def test_a_step_asks_the_device_nothing(name, stand_in):
    with Waits() as waits:
        steps_of(methods()[name](), "meta", waits)
    assert waits.questions == []
    assert [upload for upload in waits.uploads if " in data/" not in upload] == []  # SimCLR's views are drawn on the host


@pytest.mark.parametrize(
    "ask",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: 3 if x.max() > 0 else 4,
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.cpu(),
        lambda x: x.tolist(),
        lambda x: x.unique(),
        lambda x: torch.bincount(x.long(), minlength=3),
        lambda x: torch.masked_select(x, x > 0),
        lambda x: torch.equal(x, x),
    ],
)
def test_questions_are_found(ask):
    with Waits() as waits:
        ask(torch.empty(4, device="meta"))
    assert len(waits.questions) == 1


def test_uploads_are_found_and_work_on_the_device_is_none():
    x = torch.empty(4, device="meta")
    with Waits() as waits:
        torch.tensor([1.0, 2.0], device="meta")
        seen = int(not torch.__version__.startswith("2.9."))  # which makes a tensor on "meta" without any operation
        assert len(waits.uploads) == seen
        torch.ones(4).to("meta")
        assert len(waits.uploads) == seen + 1
        torch.ones(4).to("meta", non_blocking=True)
        torch.where(x > 0, x, 0).masked_fill(x > 1, 2.0)
        x[torch.arange(2, device="meta")] = 3.0
    assert len(waits.uploads) == seen + 1 and waits.questions == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, whose driver tells of every wait")
@pytest.mark.parametrize("name", [name for name in methods() if "simclr" not in name])  # its views are drawn on the host
def test_a_step_on_cuda_never_waits(name):
    class Watch:
        def __setattr__(self, _, on):
            torch.cuda.set_sync_debug_mode("error" if on else "default")

    try:
        steps_of(methods()[name](), "cuda", Watch())
    finally:
        torch.cuda.set_sync_debug_mode("default")
