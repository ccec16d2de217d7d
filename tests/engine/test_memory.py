"""What a piece of work wanted at most, and what the process did."""

from pathlib import Path

import torch

from course_lib.engine import PeakMemory


def kernel_lowers_the_mark() -> bool:
    """Whether this process may reset its peak (Linux; some containers forbid it). Looked at without PeakMemory."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    block = torch.ones(60_000_000)
    del block
    try:
        before = status.read_text(encoding="utf-8").split("VmHWM:")[1].split()[0]
        reset.write_text("5", encoding="utf-8")
        after = status.read_text(encoding="utf-8").split("VmHWM:")[1].split()[0]
    except OSError:
        return False
    return int(after) < int(before) - 100 * 1024


def test_a_peak_is_of_the_time_since_and_the_processes_own_stays():
    outer = PeakMemory("cpu")
    block = torch.ones(60_000_000)
    del block
    whole, first = PeakMemory.of_process(), outer.bytes()
    inner = PeakMemory("cpu")
    assert PeakMemory.of_process() >= whole and outer.bytes() >= first, "another that looks does not make them forget"
    if kernel_lowers_the_mark():
        assert inner.bytes() < first - 100 * 2**20, "and does not remember what was before it"
