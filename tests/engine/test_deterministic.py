"""Every method trains with `--deterministic` on CUDA: no operation of a step is one that torch then refuses.

No GPU is needed: "meta" stands for the device (test_no_waiting.py), and torch's documentation lists the operations.
"""

import pytest
import torch
from torch import nn

from course_lib.engine import deterministic
from tests.engine.test_no_waiting import Waits, methods, stand_in, steps_of  # noqa: F401  stand_in is a fixture

# torch.use_deterministic_algorithms, "will throw a RuntimeError", on CUDA. Bilinear interpolation is not among them: off the
# CPU `F.interpolate` then takes another form by itself, and the last test looks whether it does.
REFUSED = {
    "avg_pool3d_backward", "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward", "adaptive_max_pool2d_backward",
    "fractional_max_pool2d_backward", "fractional_max_pool3d_backward", "max_unpool2d", "max_unpool3d",
    "upsample_linear1d_backward", "upsample_bilinear2d_backward", "upsample_bicubic2d_backward",
    "upsample_trilinear3d_backward", "reflection_pad1d_backward", "reflection_pad2d_backward", "reflection_pad3d_backward",
    "_ctc_loss_backward", "put_", "histc", "median", "nanmedian", "kthvalue", "grid_sampler_2d_backward",
    "grid_sampler_3d_backward", "scatter_reduce_", "scatter_reduce",
}  # fmt: skip


class Operations(Waits):
    """Notes the operations of a step that torch refuses on CUDA when they have to be deterministic."""

    def __init__(self, device: str = "meta"):
        super().__init__(device)
        self.refused: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        summed = name in ("nll_loss2d_forward", "nll_loss2d") and args[3] != 0  # atomic additions, but for reduction="none"
        weighted = name == "bincount" and (len(args) > 1 and args[1] is not None or (kwargs or {}).get("weights") is not None)
        if name in REFUSED or summed or weighted:
            self.refused.add(name)
        return super().__torch_dispatch__(func, types, args, kwargs)


@pytest.fixture(autouse=True)
def on(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.backends.cudnn.benchmark
    deterministic()
    yield
    deterministic(False)
    torch.backends.cudnn.benchmark = before


@pytest.mark.parametrize("name", methods())
def test_no_operation_of_a_step_is_refused(name, stand_in):  # noqa: F811
    with Operations() as operations:
        steps_of(methods()[name](), "meta", operations, steps=1)
    assert operations.refused == set()


@pytest.mark.parametrize(
    "step, name",
    [
        (lambda x: nn.functional.cross_entropy(x, torch.zeros_like(x[:, 0], dtype=torch.int64)), "nll_loss2d_forward"),
        (lambda x: nn.functional.adaptive_avg_pool2d(x, 3).sum().backward(), "_adaptive_avg_pool2d_backward"),
        (lambda x: nn.functional.pad(x, (1, 1, 1, 1), mode="reflect").sum().backward(), "reflection_pad2d_backward"),
    ],
)
def test_what_torch_refuses_is_found(step, name):
    with Operations() as operations:
        step(torch.zeros(1, 2, 8, 8, device="meta", requires_grad=True))
    assert operations.refused == {name}


def test_interpolation_takes_its_deterministic_form():
    with Operations() as operations:
        x = torch.zeros(1, 2, 8, 8, device="meta", requires_grad=True)
        nn.functional.interpolate(x, (16, 16), mode="bilinear", align_corners=True).sum().backward()
    assert operations.refused == set()
