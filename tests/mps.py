"""A device "mps" on a machine that has none: what Apple's GPUs refuse is refused here, with numbers, on any CPU.

Inside `with on_mps() as device:` the whole library runs with device="mps". A tensor there is an `OnMps`: `tensor.device` is
mps:0, and its numbers are an ordinary CPU tensor inside. Every operation that touches one or makes one passes `Mps`, a
TorchDispatchMode, which computes it on the CPU and refuses

    - a result of float64 or complex128 on the device (torch's own message, TypeError);
    - a copy between the devices that also casts from or to float64: torch 2.14 wrote nothing [197715];
    - a copy between the devices that does not wait: it may read memory that is free again [139550, 189690];
    - an operation that mixes tensors of both devices, as every device does (single numbers and indices aside);
    - adaptive pooling between sizes of which neither divides the other (an error in torch up to 2.10) [143864];
    - the gradient of batch normalisation of tensors that are not contiguous: it is wrong [175189].

Numbers: issues of github.com/pytorch/pytorch. Nothing has to say which part of the library is the host's: loaders, transforms
and what `tensor.cpu()` returns are plain CPU tensors, as on a Mac, and may be float64. So nothing can suspend the refusal,
`course_lib.devices` neither: it brings what it adds up to the CPU, as it has to on a Mac.

`device.seen` counts the operations on the device; `without_code(seen)` are those for which the installed torch has no code of
MPS (read from its own list): on a Mac they run on the CPU under PYTORCH_ENABLE_MPS_FALLBACK=1.

Which kernels a convolution takes, oneDNN's or torch's own, depends on the CPU, the number of threads and the tensor, and they
differ in the last bits. To compare bits of a run on the device with those of one on the CPU, compute both `without_onednn`.

What this cannot show: the numbers of a real MPS, its other limits on types and sizes, the fused loops of its optimisers.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
import torchgen
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("mps", 0)
WIDE = {torch.float64, torch.complex128}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}  # their indices may lie on the CPU
REFUSED = "Cannot convert a MPS Tensor to {0} dtype as the MPS framework doesn't support {0}. Please use float32 instead. ({1})"


@contextmanager
def without_onednn() -> Iterator[None]:
    """Inside, convolutions and products on the CPU take torch's own kernels."""
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


@contextmanager
def on_mps() -> Iterator["Mps"]:
    """Inside, this machine has an MPS."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # or a module that moves would leave its optimiser behind
    try:
        with patch.object(torch.backends.mps, "is_available", lambda: True), _Numbered(), Mps() as device:
            yield device
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


class OnMps(Tensor):
    """A tensor on the device: `value` holds its numbers on the CPU. To torch's own C++ it is one without numbers ("meta"), so
    that no operation reaches them but through `Mps`."""

    @staticmethod
    def __new__(cls, value: Tensor) -> "OnMps":
        made = Tensor._make_wrapper_subclass(
            cls, value.size(), strides=value.stride(), storage_offset=value.storage_offset(), dtype=value.dtype, device="meta"
        )
        made.value = value
        return made

    @property
    def device(self) -> torch.device:
        return DEVICE

    is_meta = False  # torch's Python asks

    def to(self, *args, **kwargs) -> Tensor:
        """A tensor that is there already is returned itself, as by every device."""
        copy = kwargs.pop("copy", False)
        device, dtype, non_blocking, layout = torch._C._nn._parse_to(*args, **kwargs)
        stays = layout in (None, torch.preserve_format) and not copy
        if stays and (device is None or device.type == "mps") and dtype in (None, self.dtype):
            return self
        how = {"memory_format": layout} if layout is not None else {}
        return super().to(device or DEVICE, dtype or self.dtype, non_blocking, copy, **how)

    def tolist(self):
        return self.cpu().tolist()  # torch's own refuses subclasses

    def __tensor_flatten__(self):
        return ["value"], None

    @staticmethod
    def __tensor_unflatten__(inner, _, size, stride):
        return OnMps(inner["value"])

    def __repr__(self) -> str:
        return f"OnMps({self.value!r})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} met a tensor of the device outside `with on_mps():`.")


class Mps(TorchDispatchMode):
    """See above."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), func.overloadpacket.__name__
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        there = [x for x in tensors if isinstance(x, OnMps)]
        place = kwargs.get("device")
        comes = place is not None and torch.device(place).type in ("mps", "meta")  # "meta": C++ beside an OnMps
        leaves = bool(there) and place is not None and not comes
        if not there and not comes:
            return func(*args, **kwargs)
        self.seen[func.name().removeprefix("aten::")] += 1
        if name in ("_to_copy", "copy_"):
            self.check_copy(name, args, kwargs, between=len(there) < len(tensors) or leaves)
        elif name not in INDEXING and any(x.ndim for x in tensors if not isinstance(x, OnMps)):
            raise RuntimeError(f"Expected all tensors to be on the same device, but found mps:0 and cpu! ({func})")
        check_pooling(name, args)
        check_normalisation(name, args)
        if comes:
            kwargs["device"] = "cpu"
        inner_args, inner_kwargs = tree_map_only(OnMps, lambda x: x.value, (args, kwargs))
        result = func(*inner_args, **inner_kwargs)
        if leaves or (name == "copy_" and not isinstance(args[0], OnMps)):
            return result
        for x in tree_leaves(result):
            if isinstance(x, Tensor) and x.dtype in WIDE:
                raise TypeError(REFUSED.format(str(x.dtype).removeprefix("torch."), func))
        return return_and_correct_aliasing(func, args, kwargs, tree_map_only(Tensor, OnMps, result))

    def check_copy(self, name: str, args: tuple, kwargs: dict, between: bool) -> None:
        dtypes = {x.dtype for x in args if isinstance(x, Tensor)} | {kwargs.get("dtype")} - {None}
        if between and len(dtypes) > 1 and dtypes & WIDE:
            raise TypeError(REFUSED.format("float64", "a copy between the devices that also casts"))
        if between and (kwargs.get("non_blocking") or (name == "copy_" and True in args[2:])):
            raise RuntimeError("A copy between the CPU and MPS that does not wait: it may read memory that is free again.")


class _Numbered(TorchFunctionMode):
    """What torch's C++ asks the driver of a device: which number "mps" has, and to make a tensor of Python's numbers there."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        args, kwargs = tree_map_only((str, torch.device), lambda x: DEVICE if str(x) == "mps" else x, (args, kwargs or {}))
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == DEVICE:
            del kwargs["device"]
            return func(*args, **kwargs).to(DEVICE)
        return func(*args, **kwargs)


def check_pooling(name: str, args: tuple) -> None:
    if "adaptive" in name and "backward" not in name:
        sizes, wanted = args[0].shape[-len(args[1]) :], args[1]
        if any(max(a, b) % min(a, b) for a, b in zip(sizes, wanted, strict=True)):
            raise RuntimeError("Adaptive pool MPS: input sizes must be divisible by output sizes.")


def check_normalisation(name: str, args: tuple) -> None:
    if name == "native_batch_norm_backward" and not (args[0].is_contiguous() and args[1].is_contiguous()):
        raise RuntimeError("The gradient of batch normalisation is wrong on MPS for tensors that are not contiguous.")


def without_code(seen: Iterable[str]) -> set[str]:
    """The operations of `seen` for which torch has neither code of MPS nor code for all devices.

    torch 2.9 makes the gradient of group normalisation of other operations in Python, when the MPS backend starts.
    """
    python = set(re.findall(r'\.impl\("(\w+)", \w+, "MPS"\)', Path(torch.backends.mps.__file__).read_text(encoding="utf-8")))
    text = (Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml").read_text(encoding="utf-8")
    entries = {entry.partition("(")[0]: entry for entry in re.split(r"^- func: ", text, flags=re.MULTILINE)[1:]}

    def has_code(name: str) -> bool:
        entry = entries[name]
        if delegate := re.search(r"^  structured_delegate: (\S+)", entry, re.MULTILINE):
            return has_code(delegate[1])
        if (lines := re.search(r"^  dispatch:\n((?:    .*\n)+)", entry, re.MULTILINE)) is None:
            return True  # made of other operations
        keys = [key.strip() for line in lines[1].splitlines() for key in line.partition(":")[0].split(",")]
        return "MPS" in keys or any(key.startswith("Composite") for key in keys)

    return {name for name in set(seen) - python if not has_code(name)}
