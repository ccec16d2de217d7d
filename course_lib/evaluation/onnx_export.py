"""A trained network as an ONNX file, for programs that have neither this library nor torch.

Letters: N images, C classes, H, W the image.

    image (N,3,H,W) float32, RGB from 0 to 1   ->   logits (N,C,H,W) float32, before softmax

N, H and W are free. The file holds the network's normalisation and the last upsampling (bilinear, corners aligned or not as the
network was trained), which a user would otherwise have to copy exactly. argmax over axis 1 gives the train ids that `evaluate`
counts.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from course_lib import __version__
from course_lib.data.transforms import normalisation_named
from course_lib.evaluation.scoring import check_classes
from course_lib.extras import require
from course_lib.files import mark, refuse_foreign, write_result
from course_lib.labels import LabelSpace, label_space
from course_lib.networks.prediction import SMALLEST, eval_mode

KIND = "uda export"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OPSET = 18  # of 2022, so that older runtimes read the file; and the same with every torch
CHECKED = ((1, 64, 128), (2, 75, 101), (1, 131, 90))  # (N, H, W): two of them do not divide by a network's stride
BOUND = 1e-4  # largest difference from the network's logits, where these are beyond 1, relative to the largest of them


@dataclass(frozen=True)
class Exported:
    """What `export_onnx` wrote."""

    path: Path
    differences: dict[tuple[int, int, int], float]  # (N, H, W) -> the largest between onnxruntime's logits and the network's


class FromRgb(nn.Module):
    """A network with its normalisation before it and the upsampling behind it: RGB from 0 to 1 -> logits of the same size."""

    def __init__(self, segmenter: nn.Module):
        super().__init__()
        self.segmenter = segmenter
        rule = normalisation_named(segmenter.normalisation)
        self.bgr = rule.bgr
        self.register_buffer("mean", torch.tensor(rule.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(rule.std).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """RGB (N, 3, H, W) in 0..1 -> logits (N, C, H, W)."""
        pixels = 255 * (image.flip(1) if self.bgr else image)
        return self.segmenter((pixels - self.mean) / self.std).resized(image.shape[2:])


def export_onnx(
    segmenter: nn.Module,
    path: Path | str,
    space: str | LabelSpace,
    *,
    test_size: tuple[int, int] | None = None,
    replace: bool = False,
) -> Exported:
    """Write `segmenter` as an ONNX file, and compare it with the network on three sizes before that.

    The file's metadata say what it takes and gives: `input`, `output`, `classes` (names by train id), `label_space`,
    `test_size` (height, width of the pictures that it is scored on, null for their own size), `course_lib` (the version).
    The network is moved to the CPU and keeps its mode. An older export is replaced, another file only with `replace`.

    Raises:
        ModuleNotFoundError: without the extra `export`. FileExistsError: for a file that no export wrote. ValueError: for a
        space that the network was not trained for. RuntimeError: for a network that torch.onnx cannot translate, or whose
        translation gives other logits.
    """
    require("export", PACKAGES, "An ONNX export")
    import onnx

    space, path = label_space(space), Path(path).expanduser()
    check_classes(segmenter, space)
    refuse_foreign(path, KIND, replace)
    network = FromRgb(segmenter).to("cpu", memory_format=torch.contiguous_format)
    with eval_mode(network), torch.no_grad():
        model = _translated(network)
        _describe(model, space, test_size)
        onnx.checker.check_model(model)
        content = model.SerializeToString()
        differences = _differences(network, content)
    worst = max(differences, key=differences.get)
    if not differences[worst] <= BOUND:  # NaN is not
        raise RuntimeError(
            f"The exported {type(segmenter).__name__} gives other logits than the network: {differences[worst]:.1e} apart on "
            f"(N, H, W) = {worst}, at most {BOUND:.0e} is wanted. Nothing was written. Does its forward depend on the size of "
            "the image by Python's if or max? torch.export follows one branch for all sizes."
        )
    return Exported(write_result(path, content, KIND, replace), differences)


def _translated(network: nn.Module):
    """The network as an ONNX model with free batch, height and width."""
    free = torch.export.Dim.DYNAMIC
    try:
        program = torch.onnx.export(
            network, (torch.rand(2, 3, 72, 104),), dynamo=True, opset_version=OPSET, verbose=False,
            input_names=["image"], output_names=["logits"], dynamic_shapes=({0: free, 2: free, 3: free},),
        )  # fmt: skip
    except Exception as error:  # whatever the translators raise: one message, with the cause behind it
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        raise RuntimeError(
            f"torch.onnx cannot translate {type(network.segmenter).__name__} ({reason}). Nothing was written. `--debug` shows "
            "where."
        ) from error
    return program.model_proto


def _describe(model, space: LabelSpace, test_size: tuple[int, int] | None) -> None:
    """Write the file's metadata, and remove what torch wrote about this machine (stack traces with paths)."""
    import onnx

    graph = model.graph
    described = (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer, graph)
    for part in (*described, *model.functions, *(node for function in model.functions for node in function.node)):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    model.doc_string = f"{mark(KIND)} of course_lib {__version__}"
    for value in (*graph.input, *graph.output):
        for axis, name in zip((0, 2, 3), ("batch", "height", "width")):
            value.type.tensor_type.shape.dim[axis].dim_param = name
    onnx.helper.set_model_props(model, {
        "input": f"image (N, 3, H, W) float32, RGB from 0 to 1, not normalised; H and W at least {SMALLEST}",
        "output": "logits (N, C, H, W) float32, before softmax; argmax over axis 1 gives train ids, the places in `classes`",
        "classes": json.dumps(space.classes),
        "label_space": space.name,
        "test_size": json.dumps(test_size),
        "course_lib": __version__,
    })  # fmt: skip


def _differences(network: nn.Module, content: bytes) -> dict[tuple[int, int, int], float]:
    """The largest difference of onnxruntime's logits from the network's for each of the `CHECKED` sizes, see `BOUND`."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = {}
    for N, H, W in CHECKED:
        image = torch.rand(N, 3, H, W, generator=torch.Generator().manual_seed(H))
        ours, theirs = network(image), torch.from_numpy(session.run(None, {"image": image.numpy()})[0])
        same = ours.shape == theirs.shape
        found[N, H, W] = ((ours - theirs).abs().max() / ours.abs().max().clamp(min=1)).item() if same else float("inf")
    return found
