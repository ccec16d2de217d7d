"""What a person and a file see of a running loop."""

import json
from collections.abc import Iterable
from pathlib import Path

from tqdm.auto import tqdm


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
    """A log with one JSON object per line; every line is on disk when `write` returns. `None` as path keeps it in memory."""

    def __init__(self, path: Path | str | None = None) -> None:
        self.path = Path(path) if path is not None else None
        self.records: list[dict] = []
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, record: dict) -> None:
        """Append one record."""
        self.records.append(record)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
