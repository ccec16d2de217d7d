"""A request to stop, answered between two steps: a cluster's SIGTERM, or Ctrl-C."""

import signal
import threading
from types import FrameType


class Stopped(Exception):
    """Training was asked to stop and did so after a whole step; what it had learnt is saved."""

    def __init__(self, step: int, steps: int, why: str = "a request") -> None:
        super().__init__(f"Stopped by {why} after step {step} of {steps}; all that it has learnt is saved.")
        self.step, self.steps = step, steps


class StopRequest:
    """Inside `with`, SIGTERM and Ctrl-C are recorded: `stop()` tells whether one came. A second Ctrl-C ends the process.

        with StopRequest() as stop:
            train(..., stop=stop)

    The old handlers come back at the end. Outside the main thread, where Python allows no handlers, it never asks to stop.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._old: dict[int, object] = {}

    def __call__(self) -> bool:
        return self.signal is not None

    def __str__(self) -> str:
        return {None: "nobody", signal.SIGINT: "Ctrl-C"}.get(self.signal) or self.signal.name

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._old[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
