"""One process trains in a folder at a time: a lock file with its process id and host, there as long as it works."""

import json
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from course_lib import ranks
from course_lib.files import read_text, write_whole
from course_lib.terminal import print

LOCK = ".run.lock"  # in the folder of a run
KIND = "uda lock"  # in a lock
ENDING = 2.0  # seconds that a process gets to end: those that a killed command started notice it a little later
SETTLE = 0.2  # seconds: of several processes that take over one lock, the last to write it has it


class FolderInUse(RuntimeError):
    """Another process trains in this folder; the message names it and says what to do."""


class RunLock:
    """Inside `with`, the folder (which exists) is this run's alone. Of several processes of one run, process 0 has the lock.

        with RunLock("runs/proca") as lock:
            lock.check()  # before each write

    Raises FolderInUse where another process has it. The lock of a process of this host that has ended is taken over with a
    note; any other with `take_over`, and then also those of the folders below (`below`: of a run with stages). The process
    that had it stops at its next `check`. SIGTERM, where nobody else handles it, removes the lock before it ends the process.
    """

    def __init__(self, folder: Path | str, take_over: bool = False, below: bool = False) -> None:
        self.path = Path(folder) / LOCK
        self.take_over, self.below = take_over, below
        self.own = {"made_by": KIND, "host": _host(), "process": os.getpid(), "started": _started(os.getpid())}

    def __enter__(self) -> "RunLock":
        problem = None
        if ranks.is_main():
            try:
                self._take()
            except FolderInUse as error:
                problem = str(error)
        if (problem := ranks.agree(problem)) is not None:
            raise FolderInUse(problem)
        if threading.current_thread() is threading.main_thread():
            self.old = signal.getsignal(signal.SIGTERM)
            if self.old is signal.SIG_DFL or getattr(self.old, "__func__", None) is RunLock._ended:  # of a lock around this one
                signal.signal(signal.SIGTERM, self._ended)
        return self

    def __exit__(self, *_) -> None:
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == self._ended:
            signal.signal(signal.SIGTERM, self.old)
        self._release()

    def _release(self) -> None:
        if ranks.is_main() and os.getpid() == self.own["process"] and _read(self.path) == self.own:
            self.path.unlink(missing_ok=True)

    def _ended(self, number: int, frame: FrameType | None) -> None:
        self._release()
        signal.signal(number, self.old)
        os.kill(os.getpid(), number)  # the signal does what it would have done

    def check(self) -> None:
        """Raise FolderInUse where another process has taken the lock over: both would write."""
        if ranks.is_main() and (holder := _read(self.path)) != self.own:
            raise FolderInUse(f"{self.path.parent} was taken over by {_words(holder)}. This process stops, and writes no more.")

    def _take(self) -> None:
        try:
            with open(self.path, "x", encoding="utf-8") as file:  # fails where it exists: one process alone can make it
                json.dump(self.own, file)
        except FileExistsError:
            self._take_from(_read(self.path))
        for path in self.path.parent.rglob(LOCK) if self.take_over and self.below else ():
            if path != self.path and _read(path) is not None:
                path.unlink(missing_ok=True)

    def _take_from(self, holder: dict[str, Any] | None) -> None:
        if holder is None:
            raise FolderInUse(f"{self.path} is there and is no lock of a run. Move it away, or choose another --out.")
        until = time.monotonic() + ENDING
        while not (ended := _has_ended(holder)) and not self.take_over and time.monotonic() < until and _same_host(holder):
            time.sleep(0.1)
        if not ended and not self.take_over:
            raise FolderInUse(
                f"{self.path.parent} is being trained by {_words(holder)}. Wait for it, stop it, or choose another --out. If "
                "you know that it has ended, repeat the command with --take-over."
            )
        why = ", which has ended" if ended else ""
        print(f"Note: {self.path} was left by {_words(holder)}{why}: it is taken over.", file=sys.stderr)
        write_whole(self.path, json.dumps(self.own))
        time.sleep(SETTLE)
        self.check()


def _words(holder: dict[str, Any] | None) -> str:
    return "another process" if holder is None else f"process {holder.get('process')!r} on {str(holder.get('host'))!r}"


def _read(path: Path) -> dict[str, Any] | None:
    """The content of a lock, None where there is none or another file; of an empty one, just being written, the kind alone."""
    with suppress(OSError, ValueError):
        if path.is_file():
            text = read_text(path)
            content = json.loads(text) if text else {"made_by": KIND}
            return content if isinstance(content, dict) and content.get("made_by") == KIND else None
    return None


def _host() -> str:
    """This host; of a container that has process ids of its own, also which."""
    space = ""
    with suppress(OSError):  # only Linux has this file
        space = os.readlink("/proc/self/ns/pid")
    return f"{socket.gethostname()} {space}".strip()


def _started(process: int) -> str:
    """When a process began, as Linux counts it: a later process with the same id began at another time.

    "" of one that has ended and that its parent has not noticed yet, and on other systems.
    """
    with suppress(OSError, IndexError):
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return "" if state[0] == "Z" else state[19]
    return ""


def _same_host(holder: dict[str, Any]) -> bool:
    return os.name == "posix" and holder.get("host") == _host()


def _has_ended(holder: dict[str, Any]) -> bool:
    """Whether the holder is known to have ended: a process of another host is not known."""
    process = holder.get("process")
    if not _same_host(holder) or not isinstance(process, int) or process < 1:
        return False
    try:
        os.kill(process, 0)  # 0 sends no signal: it tests whether the process exists
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return _started(process) != holder.get("started")
