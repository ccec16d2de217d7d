"""How much memory a piece of work wanted at most."""

import sys
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """The most memory held since this object was made: `PeakMemory(device).bytes()`.

    On CUDA that of tensors on `device`, since the newest object; else that of the whole process (Linux, where the process
    may reset its peak: since then; elsewhere: since the process began; None on Windows).
    """

    _living: "weakref.WeakSet[PeakMemory]" = weakref.WeakSet()  # all share the kernel's one mark
    _process = 0  # the highest mark before it was lowered

    def __init__(self, device: torch.device | str) -> None:
        self.device, self._most = torch.device(device), 0
        if self.device.type == "cuda":
            torch.cuda.init()
            torch.cuda.reset_peak_memory_stats(self.device)
        elif _RESET.exists():
            mark = _mark() or 0
            PeakMemory._process = max(PeakMemory._process, mark)
            for other in PeakMemory._living:
                other._most = max(other._most, mark)
            with suppress(OSError):  # where that is not allowed the mark is that of the process
                _RESET.write_text("5", encoding="utf-8")  # the peak is reset
            PeakMemory._living.add(self)

    def bytes(self) -> int | None:
        """The most bytes so far; None where the system does not tell."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        mark = _mark()
        return None if mark is None else max(self._most, mark)

    @classmethod
    def of_process(cls) -> int | None:
        """The most bytes that this process has held since it began; None on Windows."""
        mark = _mark()
        return None if mark is None else max(cls._process, mark)


def _mark() -> int | None:
    """The high-water mark of this process's memory, in bytes."""
    if _STATUS.exists():
        found = [line.split()[1] for line in _STATUS.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:")]
        if found:
            return 1024 * int(found[0])
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def peak_bytes(work: Callable[[], object]) -> int:
    """The most bytes of tensors, made by `work()`, that are alive at a time.

    >>> peak_bytes(lambda: torch.zeros(10, device="meta").exp().exp())  # two of them: the first is gone by then
    80
    """
    with _Alive() as alive:
        work()
    return alive.peak


class _Alive(TorchDispatchMode):
    """Counts the tensors that are made inside, every storage once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs or {})) if isinstance(t, Tensor)}
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage())._cdata not in self.known | given:
                self.known.add(storage._cdata)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def _free(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size
