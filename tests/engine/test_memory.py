"""What a piece of work wanted at most, and what the process did."""

from pathlib import Path

import torch

from course_lib.engine import PeakMemory


def test_a_peak_is_of_the_time_since_and_the_processes_own_stays():
    outer = PeakMemory("cpu")
    block = torch.ones(60_000_000)
    del block
    whole, first = PeakMemory.of_process(), outer.bytes()
    inner = PeakMemory("cpu")
    assert PeakMemory.of_process() >= whole and outer.bytes() >= first, "another that looks does not make them forget"
    if Path("/proc/self/clear_refs").exists():
        assert inner.bytes() < first - 100 * 2**20, "and does not remember what was before it"
