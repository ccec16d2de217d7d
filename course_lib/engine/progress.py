"""What a person and a file see of a running loop."""

import json
from collections.abc import Iterable
from pathlib import Path

from tqdm.auto import tqdm

from course_lib.files import read_text, write_whole


def progress(steps: Iterable[int] | None, description: str, total: int | None = None, quiet: bool = False) -> tqdm:
    """A bar over the steps (None: moved by `update`), with time left; it redraws at most twice a second."""
    return tqdm(steps, desc=description, total=total, mininterval=0.5, disable=quiet, dynamic_ncols=True)


def describe(losses: dict[str, float], landmarks: dict[str, tuple[float, str]]) -> dict[str, str]:
    """Losses as the bar shows them: each with its landmark, so that "stuck or normal?" is answered on the spot.

    >>> describe({"segmentation": 1.2}, {"segmentation": (2.944, "ln 19: knows nothing")})
    {'segmentation': '1.200 (start 2.944)'}
    """
    return {
        name: f"{value:.3f} (start {landmarks[name][0]:.3f})" if name in landmarks else f"{value:.3f}"
        for name, value in losses.items()
    }


class JsonLines:
    """A log with one JSON object per line, each with the system when `write` returns; without a path it stays in memory."""

    def __init__(self, path: Path | str | None = None) -> None:
        self.path = Path(path) if path is not None else None
        self.records: list[dict] = []

    def write(self, record: dict) -> None:
        """Append one record. Raises OSError naming the file when the disk takes no more."""
        self.records.append(record)
        if self.path is not None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
            except OSError as error:
                raise OSError(
                    f"Cannot write {self.path}: {error.strerror}. Make room; what was saved before is as it was (--resume)."
                ) from error

    def close(self) -> None:
        """Nothing is open between two records."""

    def rewind(self, step: int) -> None:
        """Go back to what stood here after `step`: later records, and a line that a kill cut off, are dropped."""
        if self.path is not None:
            text = read_text(self.path, errors="replace") if self.path.exists() else ""
            self.records = [record for record in map(_record, text.splitlines()) if record is not None]
        self.records = [record for record in self.records if record["step"] <= step]
        if self.path is not None:
            write_whole(self.path, "".join(json.dumps(record) + "\n" for record in self.records))


def last_step(path: Path) -> int:
    """The step of the last whole line of a log, 0 without one."""
    lines = read_text(path, errors="replace").splitlines() if path.exists() else []
    record = _record(lines[-1]) if lines else None
    return 0 if record is None else record["step"]


def _record(line: str) -> dict | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None
