"""The gradients of every network in float32, with and without oneDNN and in both memory formats, against float64.

    python -m benchmarks.gradients [--only small] [--out benchmarks/results/gradients.md]

A difference is max |g - g64| / max |g64| of one parameter tensor; a row gives the largest of the network's tensors. "Held" is
the same with the float64 run's branches: every ReLU passes the activations that it passed there, every max-pooling takes the
same pixel. What remains is rounding. Without that, an activation within rounding of zero may be passed in one run and not in
the other, and its whole part of the gradient comes or goes: `Branches` counts them.
"""

import copy
import os
import platform
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from benchmarks.measuring import command, command_line, hand_over, parsed
from course_lib.networks import Discriminator, build

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
WAYS = [(one_dnn, layout) for one_dnn in (True, False) for layout in FORMATS]
_NAMES = {True: "oneDNN", False: "without"}
RANGES = {F.relu: (0.0, None), torch.relu: (0.0, None), F.relu6: (0.0, 6.0), F.leaky_relu: (0.0, None)}
ZERO = 1e-9  # of the network's largest gradient: float64's rounding of a zero is far below, every other tensor far above
SIZES = {"small": (128, 256), "Discriminator": (64, 128)}  # height and width; float64 runs of the others are slow:
OTHERS = (33, 49)
SHALLOW = (1, 1, 1, 1)  # one block in each layer: every kind of layer that ResNet-101 has


def networks() -> dict[str, Callable[[], nn.Module]]:
    """Name -> builder, always with the same weights: every network of `course_lib.networks.build`, and the discriminator."""
    options = {f"small, width={w}": ("small", {"width": w, "aux": True}) for w in (8, 9, 16, 24, 32, 40, 64, 96)}
    options |= {f"small, width={w}, batch norm": ("small", {"width": w, "norm": "batch"}) for w in (8, 64)}
    for norm in ("train", "frozen"):
        given = {"pretrained": False, "aux": True, "norm": norm, "feature_dim": 8 if norm == "frozen" else 64}
        options[f"efficientnet_lite0, {norm}, {given['feature_dim']}"] = ("efficientnet_lite0", given)
    for form in ("adaptsegnet", "adaptsegnet_single", "proca", "bida"):
        options[f"deeplab_v2, {form}"] = ("deeplab_v2", {"form": form, "blocks": SHALLOW})
    options["deeplab_v2, bida, frozen, two stems"] = (
        "deeplab_v2", {"form": "bida", "bn": "frozen", "domain_stem": True, "blocks": SHALLOW}
    )  # fmt: skip
    options["deeplab_v3plus"] = ("deeplab_v3plus", {"blocks": SHALLOW})
    options["mit, b0"] = ("mit", {"size": "b0"})
    options["hrda, small"] = ("hrda", {"of": "small", "width": 16, "attention_width": 16})
    inside = {"of": "small", "width": 16, "decoder_width": 16, "decoder_norm": "group", "rates": [1, 2]}
    options["multitask, small"] = ("multitask", inside)
    found = {name: lambda n=n, given=given: build(n, 19, seed=0, **given) for name, (n, given) in options.items()}
    return found | {f"Discriminator, width={w}": lambda w=w: _discriminator(w) for w in (4, 64)}


def _discriminator(width: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Discriminator(19, width=width, depth=3)


def example(network: nn.Module, size: tuple[int, int], batch: int = 2, seed: int = 1) -> Tensor:
    """Random input of a network, in float64: an image, or a softmax map for the discriminator. Sides that the network cannot
    train on are made larger."""
    channels, multiple = network.num_classes if isinstance(network, Discriminator) else 3, getattr(network, "multiple", 1)
    size = tuple(-(-side // multiple) * multiple for side in size)
    x = torch.randn(batch, channels, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x.softmax(1).float().double() if isinstance(network, Discriminator) else x.float().double()


class Branches(TorchFunctionMode):
    """Record which side of its kink every activation is on and which pixel every max-pooling takes, or `held` those of a run.

    With its branches held a network is a smooth function of its weights, so that two runs differ by rounding alone.
    """

    def __init__(self, held: list[Tensor] | None = None):
        super().__init__()
        self.held, self.found = held, []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in RANGES:
            return self._activation(func, *args, **kwargs or {})
        if func is F.max_pool2d:
            return self._pooling(*args, **kwargs or {})
        return func(*args, **kwargs or {})

    def crossed(self) -> int:
        """How many activations and pooled pixels differ from those held."""
        return sum(int((own != other).sum()) for own, other in zip(self.found, self.held or [], strict=True))

    def _branch(self, own: Tensor) -> Tensor:
        self.found.append(own)
        return own if self.held is None else self.held[len(self.found) - 1]

    def _activation(self, func, x: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
        low, high = RANGES[func]
        side = (x > low).to(torch.int8) if high is None else (x > low).to(torch.int8) + (x > high).to(torch.int8)
        side = self._branch(side.detach())
        below = negative_slope * x if func is F.leaky_relu else torch.zeros_like(x)
        passed = torch.where(side == 0, below, x)
        return passed if high is None else torch.where(side == 2, torch.full_like(x, high), passed)

    def _pooling(self, x: Tensor, *args, **kwargs) -> Tensor:
        _, index = F.max_pool2d_with_indices(x.detach(), *args, **kwargs)
        index = self._branch(index)
        return x.flatten(2).gather(2, index.flatten(2)).view(index.shape)


@contextmanager
def one_dnn(on: bool) -> Iterator[None]:
    """Convolutions by oneDNN, or by torch's own code."""
    before = torch.backends.mkldnn.enabled
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on TF32, which only Intel's GPUs have
        with torch.backends.mkldnn.flags(enabled=on and before):
            yield


def gradients(
    network: nn.Module, x: Tensor, layout: str, held: list[Tensor] | None = None
) -> tuple[dict[str, Tensor], Branches]:
    """Gradient of a fixed random sum of the outputs at every parameter that takes part, and the branches of that run.

    `network` and `x` are of one dtype; `held`: the branches to take, by default the network's own.
    """
    network = copy.deepcopy(network).train().to(memory_format=FORMATS[layout])
    x = x.contiguous(memory_format=FORMATS[layout])
    with Branches(held) as branches:
        outputs = network(x)
    generator = torch.Generator().manual_seed(2)
    total = x.new_zeros(())
    for output in [outputs] if isinstance(outputs, Tensor) else [outputs.logits, outputs.aux_logits]:
        if output is not None:
            total = total + (output * torch.randn(output.shape, generator=generator).to(output.dtype)).mean()
    total.backward()
    return {name: p.grad.double() for name, p in network.named_parameters() if p.grad is not None}, branches


def difference(found: dict[str, Tensor], exact: dict[str, Tensor]) -> tuple[float, str]:
    """The largest max |g - g64| / max |g64| of a parameter tensor, and that tensor's name; zero gradients are left out."""
    sizes = {name: g.abs().max().item() for name, g in exact.items()}
    counted = [name for name, size in sizes.items() if size > ZERO * max(sizes.values())]
    return max(((found[name] - exact[name]).abs().max().item() / sizes[name], name) for name in counted)


def row(name: str, network: nn.Module) -> str:
    """One network's line of the table."""
    size = SIZES.get(name.split(",")[0], OTHERS)
    x = example(network, size)
    exact, reference = gradients(copy.deepcopy(network).double(), x, "contiguous")
    free, held, crossed = [], [], []
    for on, layout in WAYS:
        with one_dnn(on):
            found, branches = gradients(network, x.float(), layout)
            free.append(difference(found, exact)[0])
            branches.held = reference.found
            crossed.append(branches.crossed())
            held.append(difference(gradients(network, x.float(), layout, reference.found)[0], exact))
    worst, tensor = max(held)
    numbers = " | ".join(f"{value:.1e} ({count})" for value, count in zip(free, crossed))
    units = sum(branch.numel() for branch in reference.found)
    return f"| {name} | {size[0]}x{size[1]} | {units / 1e6:.2f} | {numbers} | {worst:.1e} `{tensor}` |"


def processor() -> str:
    """The CPU's name and what torch uses of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--only", default="", help="networks whose name begins so")
    arguments = parsed(parser)
    lines = [
        "# Gradients in float32 against float64",
        "",
        f"`{command()}`, {processor()},",
        f"threads: {arguments.threads} of {os.cpu_count()} cores, torch {torch.__version__}.",
        "Two random images, train mode, 19 classes; DeepLabV2 with one block in each layer.",
        "The four columns: largest max |g - g64| / max |g64| of a tensor, and",
        "in brackets how many activations and pooled pixels lie on another side than in float64, of the millions in the third",
        'column. "Held": the worst of the four ways with every branch as in float64, and the tensor that it was found in.',
        "",
        "With 0 in its brackets a difference is rounding. A much larger one has a number above 0 there: one activation within",
        "rounding of zero is passed by its ReLU in one run and not in the other, and its part of the gradient comes or goes as",
        "a whole. With the branches held the difference is back at rounding. Which network and width show one is chance.",
        "",
        "EfficientNet-lite0 in train mode amplifies rounding: at random weights the error of its activations grows from 2e-6",
        "behind the stem to 6e-4 in the last blocks, where batch normalisation has eight values per channel (33x49 images).",
        "Its single operations are as exact as the others' (`tests/networks/test_gradients.py`), and so are its gradients with",
        "frozen statistics.",
        "",
        f"| network | size | 10^6 | {' | '.join(f'{_NAMES[on]}, {layout}' for on, layout in WAYS)} | held |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, builder in networks().items():
        if name.startswith(arguments.only):
            lines.append(row(name, builder()))
            print(lines[-1], file=sys.stderr, flush=True)
    hand_over(lines, arguments.out)


if __name__ == "__main__":
    main()
