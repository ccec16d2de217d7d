"""How much memory a piece of work wanted at most."""

import sys
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """The most memory held since this object was made: `PeakMemory(device).bytes()`.

    On CUDA that of tensors on `device`; else that of the whole process (Linux: since then, elsewhere: since the process
    began; None on Windows).
    """

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif _RESET.exists():
            try:
                _RESET.write_text("5")  # the kernel's high-water mark begins anew
            except OSError:  # not allowed: the mark is that of the process
                pass

    def bytes(self) -> int | None:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if _STATUS.exists():
            marks = [line.split()[1] for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:")]
            return 1024 * int(marks[0]) if marks else None
        try:
            import resource
        except ImportError:  # Windows
            return None
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
