"""Pairs of files, and what keeps one out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Pair:
    """One picture of a data set: its name, its image file and, where they were asked for, its label and its depth file."""

    name: str
    image: Path
    label: Path | None
    depth: Path | None = None  # see `disparity`

    def blamed(self, message: str) -> str:
        """The file of them that an error message names, else the image."""
        return str(next((path for path in (self.image, self.label, self.depth) if repr(str(path)) in message), self.image))


@dataclass(frozen=True)
class Problem:
    """What keeps a file out: its kind (in the plural, for counting), the file, and a message with the cure."""

    kind: str
    file: str
    message: str
