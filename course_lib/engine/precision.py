"""Devices, number formats and reproducibility: all that depends on the machine and not on the method."""

import os
import random
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from course_lib.devices import image_layout

Format = Literal["fp32", "bf16", "fp16"]
_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str = "auto") -> torch.device:
    """The device to run on: "auto" is CUDA where there is one, else the CPU; Apple's MPS, untested, only by name.

    Raises ValueError for an unknown name and for a device that this machine does not have.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device("cuda" if available["cuda"] else "cpu")
    kind = name.split(":")[0]
    if kind not in available:
        raise ValueError(f"Device {name!r} is unknown; choose auto, cpu, cuda, cuda:1, ... or mps.")
    if not available[kind]:
        raise ValueError(f"Got device {name!r}, and this machine has none. Choose --device cpu or auto.")
    return torch.device(name)


class Precision:
    """Runs forward passes in the chosen number format and keeps half-precision gradients from vanishing.

    fp32: as it is. bf16: autocast. fp16: autocast, with the loss scaled up before the backward pass and the gradients
    scaled down before the step (a step whose gradients overflow is skipped). On Apple's MPS fp32 alone: ValueError.
    """

    def __init__(self, format: Format = "fp32", device: torch.device | str = "cpu") -> None:
        if format not in _DTYPES:
            raise ValueError(f"precision is {format!r}; choose 'fp32', 'bf16' or 'fp16'.")
        self.format, self.device, self.dtype = format, torch.device(device), _DTYPES[format]
        if self.device.type == "mps" and format != "fp32":
            raise ValueError(
                f"precision is {format!r}; on mps it can only be 'fp32'. Give --set precision=fp32, or --device cpu."
            )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=format == "fp16")

    def autocast(self) -> AbstractContextManager:
        """The context of forward passes."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss` to the parameters."""
        self.scaler.scale(loss).backward()

    def step(self, optimisers: list[torch.optim.Optimizer]) -> None:
        """Step all optimisers that have gradients."""
        for optimiser in optimisers:
            if any(p.grad is not None for group in optimiser.param_groups for p in group["params"]):
                self.scaler.step(optimiser)
        self.scaler.update()


@contextmanager
def compiling(on: bool) -> Iterator[None]:
    """Inside, if `on`, what torch.compile cannot do on this machine is one line of RuntimeError with what to do."""
    try:
        yield
    except RuntimeError as error:
        if not on or not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        reason = str(error).strip().partition("\n")[0][:300]
        cure = "Install a C++ compiler (g++, or the one that CXX names)" if "ompiler" in reason else "See it with --debug"
        raise RuntimeError(
            f"compile=yes: torch cannot compile the network here ({reason}). {cure}, or leave compile out."
        ) from error


def fuse(optimisers: Iterable[torch.optim.Optimizer], on: bool) -> None:
    """Let torch's optimisers step in one kernel for all parameters, or no longer; what they remember stays.

    On CUDA it saves kernel launches, and fp16 needs no synchronisation. On the CPU it saves nothing (0.055 s against 0.053 s
    for ResNet-101) and changes the last bit of Adam. Files hold the choice of the run that wrote them; each run makes its own.
    """
    for optimiser in optimisers:
        if not isinstance(optimiser, (torch.optim.SGD, torch.optim.Adam)):  # AdamW is an Adam
            continue
        if any(bool(group["fused"]) != on for group in optimiser.param_groups):
            state = optimiser.state_dict()
            for group in state["param_groups"]:
                group["fused"] = True if on else None
            optimiser.load_state_dict(state)  # brings Adam's step counts to where this form keeps them
            for group in optimiser.param_groups:
                for p in group["params"]:
                    if not on and "step" in optimiser.state.get(p, {}):
                        optimiser.state[p]["step"] = optimiser.state[p]["step"].cpu()
            optimiser._step_supports_amp_scaling = on  # GradScaler asks for it; torch sets it when fused=True is built


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch on every device. Data loading has seeds of its own, one per sample."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Where every random generator of this process stands, that of a CUDA device among them, as tensors and plain values."""
    kind, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if torch.device(device).type == "cuda" else None,
    }


def set_random_state(state: dict[str, Any], device: torch.device | str = "cpu") -> None:
    """Put every random generator where `random_state` found it. A run that is resumed on another kind of device has
    no state for it."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.device(device).type == "cuda":
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


def deterministic(on: bool = True) -> None:
    """Ask torch for the same bits from the same seed on the same machine; operations that cannot promise it then raise."""
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # CUDA's matrix products need it
    torch.use_deterministic_algorithms(on)
    torch.backends.cudnn.benchmark = not on


def to_device(module: nn.Module, device: torch.device, channels_last: bool) -> nn.Module:
    """Move a module; channels_last stores pictures as NHWC, 1.6 times faster on CPU and what tensor cores want (not on MPS)."""
    module = module.to(device)
    only_contiguous = image_layout(device, True) is torch.contiguous_format  # though a network chose channels_last itself
    return module.to(memory_format=image_layout(device, channels_last)) if channels_last or only_contiguous else module
