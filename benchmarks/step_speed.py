"""A training step of AdaptSegNet, ProCA and BiDA beside the plain way of its released code: pictures per second, memory, share
of the machine's peak, and what each of our measures brings.

    python -m benchmarks.step_speed [--device auto] [--rounds 3] [--methods adaptsegnet proca bida] [--out FILE.md]

Both ways have the same DeepLabV2-ResNet-101 with the same weights and see the same batch, in turn in one process; their losses
are compared first, and without agreement there are no times. On CUDA sizes are the published ones (ProCA's of one of its four
GPUs) and all measures are tried; on the CPU pictures are small, and there is what a CPU has. The rows add up: each has the
measures of all rows above it. "course_lib" alone is our losses and loop in the release's number format and memory layout.

Loading is measured by itself: what a loader's worker does for one picture of the recipe, with colours, blur and normalisation
there or on the device; the pictures are MiniStreet's, prepared at the published size.

Useful work is the multiply-adds of our step, counted by torch, the same for every row; the peak is a large matrix product
measured in the same run, in bf16 on CUDA, on the CPU in the row's own number format. Memory is the largest sum of tensors alive
at a time beyond weights and what optimisers remember.
"""

import os
import platform
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measuring import MIB, command, command_line, give_prototypes, medians, parsed, peak_bytes, seconds
from benchmarks.released_steps import step_of
from course_lib.data import Batch, collate, prepare
from course_lib.data.ministreet import make as make_ministreet
from course_lib.engine import LoopSettings, choose_device, seed_everything, train
from course_lib.engine.precision import fuse
from course_lib.experiments.parts import training_set
from course_lib.files import write_whole
from course_lib.methods import Method
from course_lib.networks import Prediction, build
from course_lib.recipes import recipe as find_recipe
from course_lib.recipes.recipe import build_method

CLASSES = 19
PLAIN = "released step, plain"
TOLERANCE = {"fp32": 1e-3, "bf16": 0.1}  # of a loss, in its own size or in 1, whichever is larger
METHODS = ("adaptsegnet", "proca", "bida")
CONTRAST = {"proca": ("lambda_feat", "lambda_out"), "bida": ("lambda_fc", "lambda_bc")}  # weights of the terms alone


@dataclass(frozen=True)
class Case:
    """A method, and how many pictures of which size it sees."""

    method: str
    pictures: int  # of each domain
    source: tuple[int, int]
    target: tuple[int, int]
    blocks: tuple[int, int, int, int] = (3, 4, 23, 3)  # ResNet-101's
    normalisation: str = "caffe_bgr"  # of the network's pictures; ProCA's is "imagenet", SimCLR's "unit"

    @property
    def images(self) -> int:
        return 2 * self.pictures


PUBLISHED = {
    "adaptsegnet": Case("adaptsegnet", 1, (720, 1280), (512, 1024)),
    "proca": Case("proca", 1, (720, 1280), (512, 1024), normalisation="imagenet"),  # of 4 + 4 on four GPUs
    "bida": Case("bida", 2, (730, 730), (730, 730)),
}
REDUCED = {
    "adaptsegnet": Case("adaptsegnet", 1, (128, 256), (128, 256)),
    "proca": Case("proca", 1, (128, 256), (128, 256), normalisation="imagenet"),
    "bida": Case("bida", 2, (128, 128), (128, 128)),
}


@dataclass(frozen=True)
class Way:
    """One row: the measures that are taken."""

    name: str
    channels_last: bool = False
    fused: bool = False
    precision: str = "fp32"
    compile: bool = False
    dynamic: bool = False  # BiDA: with the slides' calibrated dynamic labels, which the release has not


def ways(case: Case, device: torch.device, compiled: bool) -> list[Way]:
    """The rows after the plain one, each with one measure more."""
    found = [Way("course_lib")]
    found.append(replace(found[-1], name="+ channels_last", channels_last=True))
    found.append(replace(found[-1], name="+ fused optimiser", fused=True))
    if device.type == "cuda" or has_bf16():
        found.append(replace(found[-1], name="+ mixed precision (bf16)", precision="bf16"))
    if compiled:
        found.append(replace(found[-1], name="+ compiled network", compile=True))
    if case.method == "bida":
        found.append(replace(found[-1], name="the same, with the slides' dynamic labels", dynamic=True))
    return found


def has_bf16() -> bool:
    """Whether this processor multiplies bf16 numbers."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


# ---- the two ways ---------------------------------------------------------------------------------------------------


def make(case: Case, device: torch.device, dynamic: bool = False, contrast: bool = True) -> Method:
    """The method with GTA5's published constants, always the same weights; its prototypes have seen something."""
    recipe = find_recipe("gta5_cityscapes", case.method)
    if case.method == "bida":
        recipe = recipe.updated({"double_softmax": True, "dynamic": "calibrated" if dynamic else "none"})
    if not contrast:
        recipe = recipe.updated(dict.fromkeys(CONTRAST[case.method], 0.0))
    seed_everything(0)
    segmenter = build(recipe.network, CLASSES, **recipe.network_options | {"imagenet": False, "blocks": case.blocks})
    method = build_method(recipe, segmenter)
    if case.method == "proca":
        give_prototypes(method)
    return method.to(device)


def batches(case: Case, device: torch.device) -> tuple[Batch, Batch]:
    """A source and a target batch: patches of classes and their colours; every picture has as many pixels without label."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for size in (case.source, case.target):
        coarse = torch.randint(0, CLASSES, (case.pictures, 1, 6, 12), generator=generator).float()
        label = nn.functional.interpolate(coarse, size=size, mode="nearest")[:, 0].long()
        image = torch.randn(CLASSES, 3, generator=generator)[label].permute(0, 3, 1, 2)
        image = image + 0.5 * torch.randn(image.shape, generator=generator)
        image = {"caffe_bgr": 50 * image, "imagenet": image, "unit": image.sigmoid()}[case.normalisation]
        label[:, : size[0] // 8] = 255
        disparity = torch.where(label == 255, -1.0, label / CLASSES)
        names = [str(k) for k in range(case.pictures)]
        made.append(Batch(image.contiguous(), label, names, disparity=disparity).to(device))
    return tuple(made)


class Runner:
    """One row, ready to run: call it with a number of steps; it answers with the last step's losses."""

    def __init__(self, case: Case, way: Way | None, device: torch.device, **options) -> None:
        self.way, self.device = way, device
        self.source, self.target = batches(case, device)
        self.method = make(case, device, dynamic=way is not None and way.dynamic)
        if way is None:
            self.step = step_of(self.method.train(), **options)
        else:
            fuse(self.method.optimisers.values(), way.fused)
            if way.compile:
                self.method.segmenter.compile()  # once for all runs

    def __call__(self, steps: int) -> dict[str, float]:
        if self.way is None:
            return [self.step(self.source, self.target) for _ in range(steps)][-1]
        w = self.way
        settings = LoopSettings(steps=steps, log_every=steps, channels_last=w.channels_last, precision=w.precision)
        with mock.patch("course_lib.engine.loop.fuse"):  # the row decides
            loaders = {"source": repeat(self.source), "target": repeat(self.target)}
            log = train(self.method, loaders, settings, device=self.device, quiet=True)
        return log.records[-1]["losses"]

    def forget(self) -> None:
        """Drop gradients, so that they count as part of the step."""
        self.method.zero_grad(set_to_none=True)


def difference(found: dict[str, float], wanted: dict[str, float]) -> tuple[float, str]:
    """The largest difference of a loss in its own size (or 1), and its name."""
    if missing := wanted.keys() ^ found.keys():
        raise SystemExit(f"Only one of both ways has the losses {sorted(missing)}: times cannot be compared.")
    return max((abs(found[name] - value) / max(1.0, abs(value)), name) for name, value in wanted.items())


def check(case: Case, rows: Iterable[Way], device: torch.device) -> dict[str, float]:
    """How far each row's losses of the first step are from the plain step's; stops where that is too much."""
    options = {"entropy_at": "grid"} if case.method == "bida" else {}
    wanted = Runner(case, None, device, **options)(1)
    found = {}
    for way in rows:
        if way.dynamic or way.compile:  # other labels; the same sums
            continue
        found[way.name], name = difference(Runner(case, way, device)(1), wanted)
        if not found[way.name] <= TOLERANCE[way.precision]:
            raise SystemExit(
                f"{case.method}, {way.name}: {name} differs by {found[way.name]:.1e} (rounding is at most "
                f"{TOLERANCE[way.precision]:.0e}): times cannot be compared."
            )
    return found


# ---- measuring ------------------------------------------------------------------------------------------------------


def peaks(device: torch.device) -> dict[str, float]:
    """Operations a second of a large matrix product, the best of several: what a row with that number format is measured by.

    On CUDA all rows by bf16, what the machine could do; on the CPU each by its own format.
    """

    def best(dtype: torch.dtype, sides: tuple[int, ...]) -> float:
        found = 0.0
        for side in sides:
            a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
            a @ b
            found = max(found, 2 * side**3 / min(seconds(lambda: a @ b, device) for _ in range(5)))  # noqa: B023
        return found

    if device.type == "cuda":
        return dict.fromkeys(("fp32", "bf16"), best(torch.bfloat16, (4096, 8192, 16384)))
    sides = (512, 1024, 2048, 4096)
    return {"fp32": best(torch.float32, sides)} | ({"bf16": best(torch.bfloat16, sides)} if has_bf16() else {})


class Stub(nn.Module):
    """In place of the network: the same predictions every time, source and target in turn, as leaves of the graph."""

    def __init__(self, predictions: list[Prediction]) -> None:
        super().__init__()
        self.predictions, self.calls, self.num_classes = predictions, 0, CLASSES
        self.feature_dim = predictions[0].features.shape[1]

    def forward(self, image: Tensor) -> Prediction:
        self.calls += 1
        return self.predictions[(self.calls - 1) % 2]


def contrast_seconds(case: Case, device: torch.device, rounds: int) -> tuple[float, float]:
    """Seconds of the contrast terms alone, prototypes, forward and backward pass: (ours, plain)."""
    source, target = batches(case, device)
    with_it, without = make(case, device), make(case, device, contrast=False)
    with torch.no_grad():
        seen = [with_it.segmenter(batch.image) for batch in (source, target)]
    leaves = [Prediction(p.features.clone().requires_grad_(), p.logits.clone().requires_grad_()) for p in seen]
    plain = step_of(make(case, device))
    for method in (with_it, without):
        method.segmenter = Stub(leaves)

    def ours(method: Method) -> None:
        (losses,) = method.losses(source=source, target=target)
        sum(method.weights.get(name, 1.0) * loss for name, loss in losses.items()).backward()

    def theirs() -> None:
        S, T = leaves
        if case.method == "proca":
            labels = plain.labels(S.logits, source.label, T.logits)
            maps = [{"feat": p.features, "out": p.logits} for p in leaves]
            losses = plain.contrast(maps[0], labels[0], maps[1], labels[1])
        else:
            losses = plain.contrast(S.features, source.label, T.features, target.label)
        sum(losses.values()).backward()

    actions = (lambda: ours(with_it), lambda: ours(without), theirs)
    for action in actions:
        action()
    on, off, other = medians(actions, max(3, rounds), device)
    return max(0.0, on - off), other


def table(case: Case, device: torch.device, rounds: int, steps: int, compiled: bool, peak: dict[str, float]) -> list[str]:
    """The section of a method."""
    rows = ways(case, device, compiled)
    differences = check(case, rows, device)
    runners: dict[str, Runner] = {PLAIN: Runner(case, None, device)} | {way.name: Runner(case, way, device) for way in rows}
    failed: dict[str, str] = {}
    for name, run in list(runners.items()):
        try:
            run(2 if device.type == "cuda" else 1)  # warms up; compiles
        except torch.OutOfMemoryError:
            failed[name] = "does not fit into memory"
        except Exception as error:  # the other rows need no compiler
            if not run.way or not run.way.compile:
                raise
            failed[name] = f"did not compile ({type(error).__name__})"
        if name in failed:
            del runners[name]
    living = [runners[way.name] for way in rows if way.name in runners and not way.compile]  # which hides its operations
    if not living:
        raise SystemExit(f"{case.method}: no step of ours fits into the memory of this device; there is nothing to compare.")
    with FlopCounterMode(display=False) as counter:
        living[0](1)
    work = counter.get_total_flops()
    found = medians([partial(run, steps) for run in runners.values()], rounds, device)
    times = {name: t / steps for name, t in zip(runners, found, strict=True)}
    room = {}
    for name, run in runners.items():
        run.forget()
        room[name] = peak_bytes(partial(run, 1), device)

    depth = {(3, 4, 23, 3): "ResNet-101", (3, 4, 6, 3): "ResNet-50"}.get(case.blocks, f"a ResNet of {case.blocks} blocks")
    sizes = " + ".join(f"{case.pictures} x {height}x{width}" for height, width in (case.source, case.target))
    lines = [
        f"## {case.method}",
        "",
        f"{depth}, {sizes} pictures (source + target), {work / 1e12:.2f} Tflop a step.",
        "",
        "| step | s | images/s | of plain | of the row above | peak MiB | of the machine's peak | losses differ by |",
        "|---|---|---|---|---|---|---|---|",
    ]
    above, formats = None, {way.name: way.precision for way in rows}
    for name in (PLAIN, *formats):
        if name in failed:
            lines.append(f"| {name} | {failed[name]} | | | | | | |")
            continue
        t = times[name]
        of_plain = f"{times[PLAIN] / t:.2f} x" if PLAIN in times else "-"
        differs = f"{differences[name]:.0e}" if name in differences else "-"
        lines.append(
            f"| {name} | {t:.3g} | {case.images / t:.3g} | {of_plain} | {f'{above / t:.2f} x' if above else '-'} "
            f"| {room[name] / MIB:,.0f} | {100 * work / t / peak[formats.get(name, 'fp32')]:.0f} % | {differs} |"
        )
        above = t
    if case.method != "adaptsegnet":
        ours, plain = contrast_seconds(case, device, rounds)
        parts = []
        for row, t in (("course_lib", ours), (PLAIN, plain)):
            share = f", {100 * t / times[row]:.1f} % of its fp32 step" if row in times else ""
            parts.append(f"{row} {1e3 * t:,.0f} ms{share}")
        lines += ["", f"Contrast terms alone (prototypes, losses, backward pass to the features): {'; '.join(parts)}."]
    return [*lines, ""]


# ---- loading --------------------------------------------------------------------------------------------------------


def loading(device: torch.device, rounds: int, pictures: int = 4) -> list[str]:
    """The section on a loader's worker: milliseconds for a source picture of 1280x720 from a prepared set."""
    methods = {"AdaptSegNet": "adaptsegnet", "ProCA, contrast": "proca"}
    lines = ["## Loading", "", "A loader worker, a source picture of 1280x720 from a prepared set; *left*: there.", ""]
    lines += ["| pictures of | colours on | ms a picture | pictures/s | times | to the device | left, ms |"]
    lines += ["|---|---|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"COURSE_CACHE": f"{folder}/cache"}):
        make_ministreet("gta5", Path(folder, "game"), pictures, 1, size=(720, 1280), workers=1, progress=False)
        prepare(f"gta5:{folder}/game", Path(folder, "small"), (720, 1280), workers=1, progress=False)
        for name, method in methods.items():
            whole = find_recipe("gta5_cityscapes", method)
            taken = {}
            for where in ("loader", "device"):
                dataset = training_set(replace(whole, colours_on=where), f"prepared:{folder}/small", "source", "imagenet")
                dataset[0]
                batch, every = collate([dataset[0]]), range(pictures)
                (one,) = medians([lambda: [dataset[k] for k in every]], max(3, rounds))  # noqa: B023
                (left,) = medians([lambda: batch.to(device)], 5, device)  # noqa: B023
                taken[where] = ms = 1e3 * one / pictures
                lines.append(
                    f"| {name} | {where} | {ms:.1f} | {1e3 / ms:.1f} | {taken['loader'] / ms:.1f} "
                    f"| {batch.image.numel() * batch.image.element_size() / 1e6:.1f} MB | {1e3 * left:.1f} |"
                )
    return [*lines, ""]


def main() -> None:
    parser = command_line(__doc__, rounds=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, help="of a round; default: 10 on CUDA, 1 on the CPU")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--compile", action="store_true", help="compile on the CPU, too: minutes, and a C++ compiler")
    parser.add_argument("--note", default="", help="a sentence about the machine while it ran, for the file")
    arguments = parsed(parser)
    device = choose_device(arguments.device)
    if device.type == "mps":
        parser.error("this measures the CPU or CUDA. Give --device cpu.")
    cuda = device.type == "cuda"
    torch.backends.cudnn.benchmark = cuda  # as `uda train` has it
    peak = peaks(device)
    name = torch.cuda.get_device_name(device) if cuda else f"CPU, {arguments.threads} of {os.cpu_count()} cores"
    rates = ", ".join(f"{peak[what] / 1e12:.3g} Tflop/s in {what}" for what in (["bf16"] if cuda else peak))
    lines = [
        "# A training step beside the plain way of its released code",
        "",
        f"`{command()}`",
        "",
        f"{name} ({platform.machine()}), torch {torch.__version__}; matrix product: {rates}. {arguments.note}".rstrip(),
        "",
        f"Medians of {arguments.rounds} rounds, all rows in turn. Rows add up: each has the measures of those above. Losses of "
        f"the first step agree with the plain step's to {TOLERANCE['fp32']:.0e} (bf16: {TOLERANCE['bf16']:.0e}),",
        "BiDA's entropy taken at the network's grid for that; the plain step then takes it at the picture's size, as released.",
        "",
    ]
    if cuda:
        lines += ["fp32 is torch's default: convolutions in TF32, matrix products in full.", ""]
    else:
        lines += [
            "Pictures are small, for the CPU. All rows on a GPU, at published sizes: **not measured: no CUDA GPU at hand** "
            "(`--device cuda`).",
            *([] if arguments.compile else ["A compiled network: not measured, compiling takes minutes here (`--compile`)."]),
            "The training loop takes the fused optimiser on CUDA alone.",
            "Above 100 %: convolutions are faster here than the product.",
            "",
        ]
    lines += loading(device, arguments.rounds)
    for method in arguments.methods:
        case = (PUBLISHED if cuda else REDUCED)[method]
        lines += table(case, device, arguments.rounds, arguments.steps or (10 if cuda else 1), cuda or arguments.compile, peak)
        text = "\n".join(lines).rstrip("\n") + "\n"
        if arguments.out:  # after each method: an interrupted run keeps what it has measured
            write_whole(arguments.out, text)
        print(method, "done", file=sys.stderr, flush=True)
    print(text, end="")


if __name__ == "__main__":
    main()
