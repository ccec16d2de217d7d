"""What several benchmarks measure with: memory that is alive at a time, memory that is to be had."""

from collections.abc import Callable
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

MIB, GIB = 2**20, 2**30


def peak_bytes(action: Callable[[], object]) -> int:
    """The most bytes of tensors alive at a time during `action`, beyond those from before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        action()
    changes = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def available() -> float:
    """Bytes of memory to be had; without end where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return float("inf")
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
