"""How much memory a piece of work wanted at most."""

import sys
import weakref
from contextlib import suppress
from pathlib import Path

import torch

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
